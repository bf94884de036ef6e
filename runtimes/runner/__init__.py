"""The one runner: loads a model in its runtime and runs, times or weighs it.

This package stands alone (standard library, numpy and one runtime; Python 3.9 or newer), so that
the very same text works as a part of sepdeploy and, zipped into one file
(``sepdeploy.runtimes.packing``), as a child process on this machine and on a device::

    python runner.pyz < job.json          # the result is the last line of standard output

A job is a JSON object in one line; a result is one too. Common keys of a job:

    mode      "run" | "outputs" | "latency" | "memory" | "values" | "ranges" | "optimize" |
              "search" | "serve"
    runtime   a name of the table of runtimes (``runner.table``); for "run" also
              "onnx.reference", the slow evaluator of the onnx package
    threads   1 by default
    shapes    {input: sizes} that fix the open sizes of inputs
    memory_limit   bytes of address space the process may take, 0 = no limit
    native    {model path: native library that runs its custom nodes}, by default none;
              "reference" in its place: slow kernels in Python, for .tflite files only

``run``: ``model`` (path), ``inputs`` (.npy, float32, (N, *shape) as NCHW or NF), ``batches`` (list
of batch sizes: all N samples are run once per size), ``output`` (.npy to write, (sizes, N,
classes)); without ``output`` the logits stand in the result.

``outputs``: ``model``, ``inputs`` (.npz: "input0" is the file's first one; else they are made up),
``batch``, ``seed``, ``output`` (.npz to write: the same inputs, and "output0" and so on, whose
names ``found`` of the result lists).

``latency``: ``models`` (list of {"name", "path"}), ``batch``, ``warmup``, ``min_rounds``,
``min_seconds``, ``max_seconds``, ``samples_per_round``, ``seed``. The models take turns in every
round, in an order that reverses from round to round. One sample is the mean of a block of runs
long enough for the clock to resolve it (``block_us``), in milliseconds.

``memory``: ``model``, ``batch``, ``runs``: time to load, and the resident memory before, after
loading and at its peak.

``values``: ``model``, ``inputs``, ``names``, ``output`` (.npz to write: "value0" is the first
name's): intermediate values of one run, quantised ones as what they stand for; an .onnx file must
declare them as outputs.

``ranges``: ``model``, ``inputs``, ``names``, ``batch``: the smallest and largest value that each
intermediate value takes over all inputs; an .onnx file must declare them as outputs.

``optimize``: ``model``, ``output``: writes the graph as the runtime optimises it.

``search``: ``model``, ``inputs``, ``labels``, ``ids``, ``norm``, ``eps``, ``queries``,
``restarts``, ``seed``, ``batch``, ``output`` (.npz to write: "images" that a random search found
for the inputs, and their "logits"); ``queries`` of the result counts the images asked for.

``serve``: ``model``, ``batch``; then questions follow on standard input, see ``runner.asking``.

Where native kernels may run, a result has ``native_calls``: how often they did in one run of each
model, summed up. Every result has ``ok``; when false, ``error`` (one line) and ``kind``:
"bad-input" and "no-room" (exit code 2), "missing" (4) or "internal" (70).
"""
