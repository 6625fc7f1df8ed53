"""How an entry runs inside a Snakemake job: output goes to the job's log, a failure ends in one clear line."""

import contextlib
import os
import shutil
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

FINISHED = "Finished."  # a line in the log of a job that wrote all of its output


@contextmanager
def job(snakemake):
    """Send stdout and stderr to the rule's log; on failure print rule, artefact, cause and log, and exit 1.

    The traceback is in the log, the last line on the terminal is for the person who must act.
    """
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(log, "w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    try:
        yield
        with contextlib.suppress(OSError):  # the log's disk may be full, the output is there
            os.write(1, f"\n{FINISHED}\n".encode())
    except Exception as error:
        # The log may lie on the disk that is full: the line below must still come.
        with contextlib.suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        cause = " ".join(str(error).split()) or type(error).__name__
        cause += full_disks(snakemake.output[0], log)
        os.write(terminal, f"{snakemake.rule}: {snakemake.output[0]}: {cause} (log: {log})\n".encode())
        raise SystemExit(1) from None
    finally:
        os.close(terminal)


def full_disks(*paths) -> str:
    """What to add to an error's cause where the file system of one of `paths` (or of work/) has no space left.

    Libraries that write files report a full disk in many words, or as "write failed".
    """
    folders = [next(p for p in Path(path).absolute().parents if p.exists()) for path in (*paths, "work/x")]
    full = [folder for folder in dict.fromkeys(folders) if shutil.disk_usage(folder).free < 2**20]
    return "".join(f"; no space left on the disk of {folder}: free some and run again" for folder in full)
