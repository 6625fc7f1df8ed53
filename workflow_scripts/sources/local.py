"""Local sources, which may come from anybody: regular files are read, and no link leads out of a source's folder."""

from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError


def place_of(spec: dict) -> object:
    """Where a catalogue's entry is from, as errors name it; None if no word says it."""
    if path := spec.get("path"):
        return Path(path).expanduser()
    return spec.get("repo") or spec.get("package")


def require_plain(where: str, file: Path, *, anywhere: bool = False) -> None:
    """ArtifactError for what can't be read as a source's file: a pipe, a folder, a link to nothing or out of the
    folder that the file stands in.

    The blobs of a hub cache count as inside of its snapshots. `where` names the source. anywhere: of weights, which are
    linked, never copied, and of a file that the configuration itself names; these may lie elsewhere.
    """
    if not file.is_file():
        kind = "a link to nothing" if file.is_symlink() and not file.exists() else "no regular file"
        raise ArtifactError(f"{where}: {file.name} is {kind}; it must be mended at its source")
    folder, target = file.parent.resolve(), file.resolve()
    inside = [folder]
    if folder.parent.name == "snapshots":
        inside.append(folder.parents[1] / "blobs")
    if not anywhere and not any(target.is_relative_to(each) for each in inside):
        raise ArtifactError(
            f"{where}: {file.name} is a link to {target}, outside of the folder; put the file itself there, or name it "
            "where it lies"
        )
