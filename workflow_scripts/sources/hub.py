"""The model hub, pinned: a recorded revision is always a commit hash."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError

COMMIT = re.compile(r"[0-9a-f]{40}")


def snapshot(
    repo: str, revision: str, allow: list[str], ignore: list[str], kind: str = "model"
) -> tuple[Path, str]:
    """Folder of a repository's files in the hub cache, and its commit. Offline (HF_HUB_OFFLINE=1): from the cache.

    `allow` and `ignore` are file name patterns, `kind` is model or dataset. Raises ArtifactError that names
    repository and revision.
    """
    from huggingface_hub import snapshot_download

    with _explained(f"{repo}@{revision}"):
        folder = Path(
            snapshot_download(
                repo, revision=revision, repo_type=kind, allow_patterns=allow, ignore_patterns=ignore
            )
        )
    return folder, folder.name


def dataset_commit(repo: str, revision: str) -> str:
    """Commit hash of a data set's revision; a full hash is returned as it is, without a look at the hub."""
    if COMMIT.fullmatch(revision):
        return revision
    return snapshot(repo, revision, allow=["README.md"], ignore=[], kind="dataset")[1]


def dataset_rows(repo: str, name: str | None, commit: str, split: str, limit: int | None) -> Iterator[dict]:
    """Rows of a data set's split at one commit; with a `limit` they are streamed and reading stops there."""
    import datasets

    with _explained(f"{repo}@{commit} (configuration {name}, split {split})"):
        rows = datasets.load_dataset(repo, name, revision=commit, split=split, streaming=limit is not None)
        for number, row in enumerate(rows):
            if limit is not None and number >= limit:
                return
            yield row


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the hub libraries' errors into an ArtifactError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise _failure(what, "accept its terms on the hub and set HF_TOKEN", error) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _failure(
            what, "no such repository or revision, or it is private (set HF_TOKEN)", error
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError, errors.HTTPError) as error:
        advice = "not in the local cache, and the hub can't be reached; fetch it once with a network"
        raise _failure(what, advice, error) from error
    except ValueError as error:
        advice = "check `repo`, `revision`, `name` and the split in config.yaml, and the network"
        raise _failure(what, advice, error) from error


def _failure(what: str, advice: str, error: Exception) -> ArtifactError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return ArtifactError(
        f"{what}: can't be fetched from the hub: {advice}. ({type(error).__name__}: {reason})"
    )
