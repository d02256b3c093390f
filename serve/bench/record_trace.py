"""Record what the routers of a checkpoint choose on the demo recipe's test data, as `vlmoe serve --trace-routing` does.

    .venv/bin/python serve/bench/record_trace.py --data data --out trace [--model demo] [--steps 360]
    .venv/bin/vlmoe plan --trace trace --ranks 4 --evaluate --json placement.json

The pictures, questions and captions are real test rows. When which kind comes is made up: stretches of questions, of
captions, and of pictures take turns, as in `placement/synthetic.py`.
"""

import argparse
from pathlib import Path

import numpy as np

from vlmoe_model.checkpoint.fingerprint import model_id
from vlmoe_model.inputs import Example, Job
from vlmoe_model.precision import EXPERT_BYTES
from vlmoe_model.runner import Runner
from vlmoe_serve.engine.expert_shares import sizes_of
from vlmoe_serve.engine.tracing import RoutingTracer, trace_meta
from vlmoe_serve.placement.trace_writer import TraceWriter, WriterOptions
from vlmoe_train.datasets import load_samples

# shares of tokens: questions about pictures, captions, pictures alone
MODES = np.array([[0.70, 0.15, 0.15], [0.25, 0.60, 0.15], [0.25, 0.10, 0.65]])
STAY = 0.97
ROWS = 2000


def questions(runner: Runner, root: Path) -> list[list[Job]]:
    """Jobs of each data set of questions."""
    processor, spec = runner.directory.processor(), runner.config.head("vqa").image
    found = []
    for name in ("easy_vqa", "scenes"):
        samples = load_samples(name, root, "test", spec)
        rows = np.linspace(0, len(samples) - 1, min(ROWS, len(samples))).astype(np.int64)
        found.append(
            [
                Job(
                    "vqa",
                    Example(
                        image=samples.images[samples.image_index[row]],
                        tokens=processor.text("vqa", samples.texts[row]),
                    ),
                )
                for row in rows
            ]
        )
    return found


def alone(runner: Runner, root: Path) -> tuple[list[list[Job]], list[list[Job]]]:
    """Jobs of captions, and of pictures without a question, by data set."""
    processor = runner.directory.processor()
    emoji = load_samples("emoji", root, "test", runner.config.head("retrieval").image)
    fashion = load_samples("fashion_mnist", root, "test", runner.config.head("fashion").image)
    captions = [
        Job("retrieval", Example(tokens=processor.text("retrieval", text)))
        for text in dict.fromkeys([*emoji.texts, *emoji.labels])
        if text
    ]
    drawings = [Job("retrieval", Example(image=image)) for image in emoji.images[:ROWS]]
    clothes = [Job("fashion", Example(image=image)) for image in fashion.images[:ROWS]]
    return [captions], [drawings, clothes]


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    runner = Runner.load(args.model, dtype="fp32", threads=args.threads)
    captions, pictures = alone(runner, args.data)
    kinds = [questions(runner, args.data), captions, pictures]
    rng = np.random.default_rng(args.seed)
    sizes = sizes_of(runner.config, EXPERT_BYTES[runner.dtype], runner.num_parameters)
    meta = trace_meta(runner.config, model_id(runner.directory), device=runner.device, sizes=sizes)
    # large enough that nothing is ever dropped, however slow the disk
    writer = TraceWriter(args.out, meta, WriterOptions(rows_per_file=4_000_000))
    tracer = RoutingTracer(writer, runner.config)
    mode, favourite = 0, [0, 0, 0]
    for _ in range(args.steps):
        if rng.random() > STAY:
            mode = int(rng.integers(len(MODES)))
            # of each kind, one data set is asked for most during a stretch
            favourite = [int(rng.integers(len(sets))) for sets in kinds]
        jobs: list[Job] = []
        for share, sets, liked in zip(MODES[mode], kinds, favourite, strict=True):
            left = share * args.tokens
            while left > 0:
                chosen = sets[liked] if rng.random() < 0.8 else sets[int(rng.integers(len(sets)))]
                jobs.append(chosen[int(rng.integers(len(chosen)))])
                left -= sum(jobs[-1].num_tokens(runner.config.patch_size))
        runner.run(jobs, tracer.observe)
    tracer.close()
    print(f"{args.steps} steps in {args.out}, {writer.num_dropped} rows dropped")


if __name__ == "__main__":
    main()
