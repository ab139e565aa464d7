"""A backbone's directory for what looks at it from outside; there are no weights in it."""

import json
import zipfile


def backbone_directory(path, *, cut="stage3"):
    """Make a directory such as `fieldloop pretrain` does."""
    path.mkdir(parents=True)
    with zipfile.ZipFile(path / "backbone.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    facts = {
        "member": "MobileNetV2",
        "alpha": 0.35,
        "minimalistic": False,
        "side": 32,
        "cut": cut,
        "pooling": "flatten",
        "source": "glyphs",
        "source_sha256": "0" * 64,
        "accuracy": 0.9,
    }
    (path / "backbone.json").write_text(json.dumps(facts))
    return path
