#!/usr/bin/env bash
# Ray's Jobs API: the status of job "night#2" is that of job "night", and deleting it deletes "night".
#
# Version: ray[default] 2.60.0.
# Guess: a submission ID that submit_job accepts names the job in all other calls; list_jobs shows it, too.
# Instead: the client puts the ID into the URL unquoted, so that everything from "#" (or "?") on is lost. submit_job sends it in the
#   body and is right. get_job_status and get_job_info("night#2") answer for "night", delete_job("night#2") removes "night", and
#   stop_job and get_job_logs end in an error about something else.
# Why it matters: "#2" is what people append to the name of a nightly batch that they run again. Who waits for the second run sees
#   SUCCEEDED at once, from the first, while the second has failed, and the leaderboard is made of half the assets. Use letters,
#   digits, "-" and "_" alone.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d /tmp/rXXXX)
trap 'kill "$head" 2>/dev/null; wait 2>/dev/null; rm -rf "$folder" || true' EXIT
head=0
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q 'ray[default]==2.60.0' 2>/dev/null
cd "$folder"
export HOME=$folder RAY_AUTH_MODE=disabled RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
unset RAY_ADDRESS
free() { "$folder/env/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free)
"$folder/env/bin/ray" start --head --block --num-cpus=1 --disable-usage-stats --port="$(free)" --dashboard-host=127.0.0.1 \
  --dashboard-port="$port" --dashboard-agent-listen-port=0 --object-store-memory=100000000 --temp-dir="$folder/t" >head.log 2>&1 &
head=$!
"$folder/env/bin/python" - "http://127.0.0.1:$port" <<'PYTHON'
import sys
import time

from ray.job_submission import JobSubmissionClient


def until(function, seconds=90):
    """The first answer that is not None."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if (found := function()) is not None:
                return found
        except (ConnectionError, RuntimeError):
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise TimeoutError("no answer in time")
        time.sleep(1)


client = until(lambda: JobSubmissionClient(sys.argv[1]))
until(lambda: client.submit_job(entrypoint="true", submission_id="night"))
client.submit_job(entrypoint="false", submission_id="night#2")


def listed():
    return {job.submission_id: job.status.value for job in client.list_jobs()}


ended = until(lambda: states if (states := listed()).keys() and not set(states.values()) & {"PENDING", "RUNNING"} else None)
print("list_jobs:                ", ended)
print("get_job_status('night#2'):", status := client.get_job_status("night#2").value)
print("get_job_info('night#2') is about", about := client.get_job_info("night#2").submission_id)
time.sleep(4)  # Ray records a job once more within seconds of its end
print("delete_job('night#2'):    ", client.delete_job("night#2"))
print("list_jobs:                ", left := listed())
is_as_stated = (
    ended == {"night": "SUCCEEDED", "night#2": "FAILED"}
    and (status, about) == ("SUCCEEDED", "night")
    and left == {"night#2": "FAILED"}
)
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
