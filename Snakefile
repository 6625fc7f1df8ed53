from snakemake.utils import min_version

min_version("9.27")


configfile: "config/sources.yaml"
configfile: "config/compressors.yaml"
configfile: "config/methods.yaml"
configfile: "config.yaml"


report: "reports/workflow.rst"


include: "rules/common.smk"
include: "rules/roll_ups.smk"
include: "rules/fetch.smk"
include: "rules/teach.smk"
include: "rules/compress.smk"
include: "rules/recover.smk"
include: "rules/evaluate.smk"
include: "rules/judge.smk"
include: "rules/report.smk"


rule all:
    input:
        lambda wildcards: say_missing_files(config["grid"]),
        [cell.json for cell in PLAN.cells(config["grid"])],
        # The report is made from these; without a place here, a deleted one would stay away for good.
        [file.path(config["grid"]) for file in layout.REPORTED],
        layout.REPORT.path(config["grid"]),
