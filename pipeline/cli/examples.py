"""Example commands at the end of each `--help`. A test parses all of them."""

EXAMPLES = {
    "": ("bench", "generate 'a red mushroom'", "bench --help"),
    "bench": (
        "bench",
        "bench --prompt 'a green robot head' --prompt 'a blue penguin'",
        "bench --suite embedded40 --objective sctd,sds,ism",
        "bench --sweep times.num_segments=1,3,5 --set iterations=600",
        "bench --suite dreamfusion40 --recipe paper --out s3://bucket/paper",
    ),
    "generate": ("generate 'a red mushroom'", "generate 'a silver robot' --recipe embedded-avatar --out runs/robot"),
    "export": (
        "export runs/robot --to spz --to mp4",
        "export runs/embedded40 --prompt 'a red car' --to glb --mesh",
        "export asset.ply --to png --azimuth 45 --out car.png",
    ),
    "evaluate": (
        "evaluate runs/embedded40",
        "evaluate runs/embedded40 --views 60",
        "evaluate --assets trellis/ --method TRELLIS --prompts trellis.csv --out runs/embedded40",
        "evaluate --assets a/ --method A --up z --assets b/ --method B --up y --front auto --out runs/both",
    ),
    "leaderboard": (
        "leaderboard runs/embedded40",
        "leaderboard runs/a runs/b --out both.csv",
        "leaderboard runs/a --json",
    ),
    "agreement": (
        "agreement runs/embedded40 --opinions ratings.csv",
        "agreement runs/embedded40 --opinions studies/first --json",
    ),
    "status": ("status runs/embedded40", "status s3://bucket/paper --json"),
    "doctor": ("doctor", "doctor --recipe paper --json"),
    "reference": (
        "reference --weights published --suite dreamfusion40 --count 50000",
        "reference --network dinov2 --network inception",
    ),
    "report": ("report runs/embedded40", "report runs/a runs/b --out both"),
    "view": ("view runs/robot/items/ID", "view asset.ply --port 0 --no-browser"),
    "completion": ('eval "$(segmentdreamer completion bash)"', "completion fish"),
    "nightly": ("nightly --baseline baselines", "nightly --baseline s3://bucket/pinned --limit 4 --gates gates.toml"),
    "nightly accept": ("nightly accept runs/release-1 --baseline baselines --reason 'release 1'",),
    "weights list": ("weights list", "weights list --json"),
    "weights fetch": ("weights fetch", "weights fetch prior scorer"),
    "weights check": ("weights check", "weights check prior scorer --json"),
    "benchmark speed": ("benchmark speed", "benchmark speed --recipe paper --iterations 30 --out speed.json"),
    "warmup": ("warmup", "warmup --recipe paper --set guidance.perp_neg=true --json"),
    "manifest rayjob": (
        "manifest rayjob --name paper --image IMAGE:1 --gpus 8 --storage runs -- bench --recipe paper",
    ),
    "manifest raycluster": ("manifest raycluster --name shared --image IMAGE:1 --gpus 16 --storage runs",),
    "manifest networkpolicy": ("manifest networkpolicy --name paper",),
    "manifest cronjob": (
        "manifest cronjob --name daily --image IMAGE:1 --storage runs --schedule '0 2 * * *' -- bench",
    ),
    "manifest raycronjob": (
        "manifest raycronjob --name daily --image IMAGE:1 --storage runs --schedule '0 2 * * *' -- bench",
    ),
    "manifest kfp": ("manifest kfp --name paper --image IMAGE:1 --storage runs -- bench --recipe paper",),
    "submit local": ("submit local --name mine -- bench",),
    "submit ray": ("submit ray --name mine --address http://127.0.0.1:8265 -- bench",),
    "submit kuberay": (
        "submit kuberay --wait --name paper --image IMAGE:1 --gpus 8 --storage runs -- bench --recipe paper",
    ),
    "submit kfp": ("submit kfp --wait --name paper --image IMAGE:1 --storage runs -- bench --recipe paper",),
    "schedule cronjob": (
        "schedule cronjob --name daily --image IMAGE:1 --storage runs --schedule '0 2 * * *' -- bench",
        "schedule cronjob --name daily --delete",
    ),
    "schedule kfp": (
        "schedule kfp --name daily --image IMAGE:1 --storage runs --schedule '0 2 * * *' -- bench",
        "schedule kfp --name daily --delete",
    ),
    "job status": ("job status kuberay paper", "job status kfp paper --json"),
    "job logs": ("job logs kuberay paper",),
    "job cancel": ("job cancel ray mine",),
    "viewer fetch": ("viewer fetch", "viewer fetch --from viewer.tgz"),
    "study create": ("study create --runs runs/a,runs/b --prompts 8 --volunteers 40 --out studies/first",),
    "study invite": ("study invite studies/first --count 5",),
    "study serve": (
        "study serve studies/first",
        "study serve studies/first --host 0.0.0.0 --url https://study.example",
    ),
    "study results": ("study results studies/first --leaderboard", "study results studies/first --json"),
    "study published": ("study published table2.csv --voters 40",),
}


def lines(verb: str) -> list[str]:
    """The examples of a command, with the name of the program."""
    return [text if "segmentdreamer" in text else f"segmentdreamer {text}" for text in EXAMPLES.get(verb, ())]


def epilog(verb: str) -> str:
    r"""The help text of the examples of a command. \b keeps click from wrapping the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines(verb)) if verb in EXAMPLES else ""
