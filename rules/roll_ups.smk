# Inputs, parameters and resources of the jobs in judge.smk and report.smk.
TITLES = {  # of tables, as the report lists them
    "table1": "1: quantised models",
    "table2": "2: sparse models",
    "table3": "3: ablation of dynamic prompting",
    "changes": "Changed answers",
    "compressors": "Compressed models",
}
READING_JOB = REQUESTS.where("cpu_partition")
READ_HERE = SITE["cpu_partition"] is None  # beside Snakemake


def roll_up_arguments(entry):
    return lambda wildcards: as_text(PLAN.analysis(wildcards.grid, entry))


def rerun_roll_up_if_outdated(entry, roll_up):
    """Adds no file; forces the job if the grid's roll-up was made by another recipe."""

    def inputs(wildcards):
        RERUNS.force_roll_up_if_outdated(entry, roll_up.path(wildcards.grid), wildcards.grid)
        return []

    return inputs


def counted(files):
    """Inputs of a roll-up: `ancient` while the grid's report is up to date with their contents."""

    def inputs(wildcards):
        present = RERUNS.present(files(wildcards.grid))
        return ancient(present) if RERUNS.is_reported(wildcards.grid) else present

    return inputs


def rolled_up(*roll_ups):
    """Files of the grid that other roll-ups make."""

    def inputs(wildcards):
        files = [roll_up.path(wildcards.grid) for roll_up in roll_ups]
        files = files[0] if len(files) == 1 else files
        return ancient(files) if RERUNS.is_rolled_up(wildcards.grid) else files

    return inputs


@functools.cache
def say_missing_files(grid):
    """Adds no file; prints a line if a finished report was made from files that are deleted."""
    if IS_MAIN and (line := RERUNS.missing_files(grid)):
        print(line, file=sys.stderr)
    return []


evaluations = counted(lambda grid: [cell.json for cell in PLAN.cells(grid)])
trainings = counted(lambda grid: [adapter.training for adapter in PLAN.adapters(grid)])
compressions = counted(lambda grid: list(dict.fromkeys(map(PLAN.compression, PLAN.cells(grid)))))
remade = counted(PLAN.remade_to_measure)
similarities = counted(lambda grid: [cell.similarity for cell in PLAN.similarity_cells(grid)])
latencies = counted(PLAN.latency_places)
tables = rolled_up(*(layout.table(f"table{number}") for number in (1, 2, 3)))
figures = rolled_up(*map(layout.figure, layout.FIGURES))
