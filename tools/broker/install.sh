#!/usr/bin/env sh
# Install mosquitto with the system's package manager where we may. Without it the demo uses the
# embedded broker, and the tests that need a real one say why they were left out.
set -u
PATH="$PATH:/usr/sbin:/usr/local/sbin"
if command -v mosquitto >/dev/null 2>&1; then
  exit 0
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
  else
    echo "mosquitto is not installed and this user may not install it: the embedded broker is used." >&2
    echo "To test with the real one: install the package 'mosquitto' and run this again." >&2
    exit 0
  fi
fi
if command -v apt-get >/dev/null 2>&1; then
  $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends mosquitto >/dev/null
elif command -v dnf >/dev/null 2>&1; then
  $as_root dnf install -y -q mosquitto
elif command -v apk >/dev/null 2>&1; then
  $as_root apk add --quiet mosquitto
elif command -v brew >/dev/null 2>&1; then
  brew install --quiet mosquitto
else
  false
fi || echo "mosquitto could not be installed: the embedded broker is used." >&2
# A distribution's package starts a service on port 1883; ours start their own on free ports.
exit 0
