"""Ask an installed TFLite runtime for the highest version it has of every builtin op.

A runtime looks operators up when a model is loaded, before it looks at anything else about them.
So a model with one bare operator tells: either the lookup fails and names the op and version, or
the op is there (whatever happens next). Each question is asked in a child process, because a bare
operator may crash a runtime that does know it.

Run it inside the environment of the runtime in question; `--schema` names a Python with LiteRT's
schema, which builds the models:

    python tools/op_versions/probe.py --schema .venv/bin/python > versions.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HIGHEST = 15

BUILD = """
import sys
import flatbuffers
from ai_edge_litert import schema_py_generated as schema

names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
folder = sys.argv[1]
for code, name in sorted(names.items()):
    if name in ("CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"):
        continue
    for version in range(1, int(sys.argv[2]) + 1):
        op = schema.OperatorCodeT()
        op.builtinCode, op.deprecatedBuiltinCode, op.version = code, min(code, 127), version
        graph = schema.SubGraphT()
        graph.tensors, graph.inputs, graph.outputs = [], [], []
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, [], []
        graph.operators = [operator]
        model = schema.ModelT()
        model.version, model.operatorCodes = 3, [op]
        model.subgraphs, model.buffers = [graph], [schema.BufferT()]
        builder = flatbuffers.Builder(256)
        builder.Finish(model.Pack(builder), b"TFL3")
        with open(f"{folder}/{name}.{version}.tflite", "wb") as file:
            file.write(bytes(builder.Output()))
"""

ASK = """
import sys
try:
    from tflite_runtime.interpreter import Interpreter
except ImportError:
    from ai_edge_litert.interpreter import Interpreter
for path in sys.argv[1:]:
    try:
        Interpreter(model_content=open(path, "rb").read())
    except (ValueError, RuntimeError) as error:
        missing = "Didn't find op" in str(error) or "unresolved" in str(error).lower()
        print(path, "missing" if missing else "known", flush=True)
    else:
        print(path, "known", flush=True)
"""


def main() -> None:
    """Print {op: highest version} as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schema", default=sys.executable, help="a Python that has LiteRT")
    schema = parser.parse_args().schema
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([schema, "-c", BUILD, folder, str(HIGHEST)], check=True)
        found = _ask(sorted(Path(folder).iterdir()))
    print(json.dumps(dict(sorted(found.items())), indent=1))


def _ask(paths: list[Path]) -> dict[str, int]:
    found: dict[str, int] = {}
    left = [str(path) for path in paths]
    while left:
        done = subprocess.run(
            [sys.executable, "-c", ASK, *left], capture_output=True, text=True, check=False
        )
        answers = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
        if len(answers) < len(left) and done.returncode >= 0:
            sys.exit(f"the runtime cannot be asked: {done.stderr[-500:]}")
        if len(answers) < len(left):
            # It crashed on an operator that it had found.
            answers.append([left[len(answers)], "known"])
        for path, answer in answers:
            op, version, _ = Path(path).name.split(".")
            if answer == "known":
                found[op] = max(found.get(op, 0), int(version))
        left = left[len(answers) :]
    return found


if __name__ == "__main__":
    main()
