"""Search: trials in killable processes, recorded in a study that survives them.

A study is Optuna's: a journal file by default, PostgreSQL for many machines. What a trial needs
(rows, device, rules) and what it leaves (flatbuffers, evidence) are files named by their hash in
the study's directory; the study itself holds settings, scores and hashes. Nothing is unpickled.

`files` rows and results on disk; `orders` what parent and child say to each other; `child` the
process that trains; `evaluator` its keeper; `storage` where studies live; `spec` what a study is
about; `objective` one trial; `limits` what is known before it; `screening` trials on few rows;
`loop` trial after trial; `front` what came of it; `search` all of it, from `train`; `worker` and
`on_ray` the same on other machines.
"""
