"""The paper's sentences and formulas against its own tables. Each function returns its findings."""

import numpy as np
import pandas as pd

from workflow_scripts.judge.findings import Finding, finding, only, select

MODELS = ("Llama-7b", "OPT-6.7b")
NAMES = {1: "GPTQ", 2: "SparseGPT"}
HIDDEN, INTERMEDIATE, LAYERS = 4096, 11008, 32  # Llama-7b; OPT-6.7b has fc layers of 4 x 4096
IDP_TOKENS = 150  # 50 + 100
LATENCY = {"prompt": 0.37, "lora": 0.62}  # seconds, section 3.3
TEST_ITEMS = {  # usual test sets of the harness
    "arcE": 2376,
    "arcC": 1172,
    "sciq": 1000,
    "webqs": 2032,
    "triviaqa": 17944,
    "piqa": 1838,
    "hellaswag": 10042,
    "lambada": 5153,
    "winogrande": 1267,
}


def _millions(text: str) -> float:
    return float(text.rstrip("M"))


def _gain(rows: pd.DataFrame, table: int, model: str, kind: str = "IDP", column: str = "Average") -> float:
    return float(only(rows, table, model, kind)[column] - only(rows, table, model, "-")[column])


def _top_gain(rows: pd.DataFrame, table: int, model: str) -> tuple[float, str]:
    found = select(rows, table, model)
    found = found[found["type"] != "-"]
    top = found.iloc[int(found["Average"].to_numpy().argmax())]
    return float(top["Average"] - only(rows, table, model, "-")["Average"]), f"{top['type']} {top['param']}"


def parameter_ratio(rows: pd.DataFrame) -> list[Finding]:
    """21x fewer parameters than LoRA; 81 % to 91 % saved, "20-fold"."""
    size = IDP_TOKENS * HIDDEN / 1e6
    ratios, text = [], []
    for model in MODELS:
        loras = [_millions(p) for p in select(rows, 1, model, "lora")["param"]]
        ratios += [lora / size for lora in loras]
        text.append(f"{model} {min(loras) / size:.1f} to {max(loras) / size:.1f}")
    prefix = _millions("13.1M") / size
    printed, saved = (
        [1 - own / lora for lora in (4.4, 8.9)] for own in (0.8, size)
    )  # Llama's smallest and largest
    return [
        finding(
            "abstract",
            "21 times fewer extra parameters than LoRA",
            max(ratios) >= 20.5,
            f"LoRA over IDP ({size:.3f}M): {'; '.join(text)}. 21.3 is prefix tuning over IDP ({prefix:.1f}), "
            f"{8.9 / (100 * HIDDEN / 1e6):.1f} is LoRA 8.9M over one prompt of 100 tokens",
        ),
        finding(
            "3.3",
            "81 % to 91 % of the parameters saved",
            [int(100 * share) for share in printed] == [81, 91],
            f"only with IDP at 0.8M, which is {0.8e6 / HIDDEN:.0f} tokens: {100 * printed[0]:.1f} % against LoRA "
            f"4.4M and {100 * printed[1]:.1f} % against 8.9M; with {size:.3f}M it is {100 * saved[0]:.1f} % to "
            f"{100 * saved[1]:.1f} %",
        ),
        finding(
            "3.3",
            "a 20-fold reduction",
            max(ratios) >= 19.5,
            f"0.8M is {4.4 / 0.8:.1f} to {8.9 / 0.8:.1f} times smaller, {size:.3f}M {min(ratios):.1f} to "
            f"{max(ratios):.1f} times",
        ),
    ]


def prompt_sizes(rows: pd.DataFrame) -> list[Finding]:
    """50 + 100, 26 + 100, 150 tokens, 0.8M."""
    sizes = {f"{n} tokens": n * HIDDEN / 1e6 for n in (126, 150, 195)}
    return [
        finding(
            "text, appendix, Table 3, Figure 7",
            "IDP's prompts have one size throughout",
            False,
            "the text says 50 and 100 tokens, Table 3 and Figure 7 say 26 and 100, section 3.3 says 0.8M: "
            + ", ".join(f"{name} are {size:.3f}M" for name, size in sizes.items())
            + "; only 50 + 100 gives the printed 0.6M of Tables 1 and 2",
        )
    ]


def latency(rows: pd.DataFrame) -> list[Finding]:
    """Latency reduced by 60 %: 0.37 s against 0.62 s."""
    prompt, lora = LATENCY["prompt"], LATENCY["lora"]
    lower = 100 * (1 - prompt / lora)
    return [
        finding(
            "abstract, 3.3",
            "inference latency reduced by 60 %",
            abs(lower - 60) < 0.5,
            f"{prompt} s is {lower:.1f} % less than {lora} s, {lora / prompt:.2f} times as fast; "
            f"0.37 s is {100 * prompt / lora:.1f} % of 0.62 s",
        ),
        finding(
            "3.3",
            "a prompt takes at most 0.37 s and LoRA 0.62 s (batch 16, sequence 1024)",
            None,
            "the device, the precision and whether LoRA was merged are not printed; merged LoRA costs nothing",
        ),
    ]


def average_gains(rows: pd.DataFrame) -> list[Finding]:
    """GPTQ about +1 %, SparseGPT +0.37 %."""
    tops = {table: [_top_gain(rows, table, model) for model in MODELS] for table in (1, 2)}
    idp = [_gain(rows, 2, model) for model in MODELS]
    text = {
        t: ", ".join(f"{m} {g:+.2f} ({name})" for m, (g, name) in zip(MODELS, top, strict=True))
        for t, top in tops.items()
    }
    means = {table: float(np.mean([g for g, _ in top])) for table, top in tops.items()}
    return [
        finding(
            "text",
            "under GPTQ the best method gains about 1 % on average",
            abs(means[1] - 1) < 0.1,
            f"{text[1]}; mean {means[1]:+.2f} (points)",
        ),
        finding(
            "text",
            "under SparseGPT the top performers gain 0.37 %",
            abs(means[2] - 0.37) < 0.005,
            f"the best methods give {text[2]}, mean {means[2]:+.2f}; 0.37 is the mean of the IDP gains "
            f"({idp[0]:+.2f}, {idp[1]:+.2f}: {np.mean(idp):.2f})",
        ),
    ]


def idp_first(rows: pd.DataFrame) -> list[Finding]:
    """IDP stands out in both scenarios."""
    ranks, text = [], []
    for table, name in NAMES.items():
        for model in MODELS:
            found = select(rows, table, model)
            found = found[found["type"] != "-"]
            mine = only(rows, table, model, "IDP")
            others = found[found["type"] != "IDP"]["Average"]
            rank = 1 + int((others > mine["Average"]).sum())
            ranks.append(rank == 1 and not (others == mine["Average"]).any())
            tie = ", printed equal to another row" if (others == mine["Average"]).any() else ""
            text.append(f"{name} {model}: rank {rank} of {len(found)} at {mine['Average']:.2f}{tie}")
    return [finding("text", "IDP stands out in both scenarios", all(ranks), "; ".join(text))]


def prefix_tuning(rows: pd.DataFrame) -> list[Finding]:
    """Prefix tuning lowers all tasks."""
    tasks = list(TEST_ITEMS)
    falls, raised = [], []
    for table in NAMES:
        for model in MODELS:
            base = only(rows, table, model, "-")
            for _, row in select(rows, table, model, "ptune").iterrows():
                raised.append(sum(row[task] > base[task] for task in tasks))
                falls.append(row["Average"] < base["Average"])
    some = [count for count in raised if count]
    return [
        finding(
            "text", "prefix tuning lowers every Average", all(falls), f"{sum(falls)} of {len(falls)} rows"
        ),
        finding(
            "text",
            "prefix tuning lowers all tasks",
            not some,
            f"{len(some)} of {len(raised)} rows rise on {min(some)} to {max(some)} tasks",
        ),
    ]


def world_knowledge(rows: pd.DataFrame) -> list[Finding]:
    """Redirection beats LoRA on World; IDP is never behind by 0.2 or more."""
    leads: list[float] = []
    behind: list[float] = []
    text: dict[str, list[str]] = {"World": [], "Language": [], "Common": []}
    for table, name in NAMES.items():
        for model in MODELS:
            for column, parts in text.items():
                lead = float(
                    only(rows, table, model, "IDP")[column] - select(rows, table, model, "lora")[column].max()
                )
                parts.append(f"{name} {model} {lead:+.2f}")
                (leads if column == "World" else behind).append(round(lead, 2))
    return [
        finding(
            "text",
            "redirection beats LoRA on world knowledge",
            all(lead > 0 for lead in leads),
            f"IDP minus the best LoRA: {'; '.join(text['World'])}; "
            f"{sum(lead < 0.15 for lead in leads)} of {len(leads)} are about 0.1",
        ),
        finding(
            "text",
            "where IDP is behind LoRA, it is by less than 0.2",
            all(lead > -0.2 for lead in behind),
            f"Language: {'; '.join(text['Language'])}. Common: {'; '.join(text['Common'])}",
        ),
    ]


def most_recover(rows: pd.DataFrame) -> list[Finding]:
    """Most methods recover the loss; under SparseGPT Language does not."""
    gains, language = [], []
    for table in NAMES:
        for model in MODELS:
            base = only(rows, table, model, "-")
            found = select(rows, table, model)
            found = found[~found["type"].isin(["-", "ptune"])]
            gains += list(found["Average"] - base["Average"])
            if table == 2:
                language += list(found["Language"] - base["Language"])
    return [
        finding(
            "text",
            "LoRA, prompts and IDP raise the Average over no recovery",
            min(gains) > 0,
            f"{sum(g > 0 for g in gains)} of {len(gains)} rows, by {min(gains):+.2f} to {max(gains):+.2f}",
        ),
        finding(
            "text",
            "they recover Language under SparseGPT too",
            max(language) > 0,
            f"every one of the {len(language)} rows falls, by {-max(language):.2f} to {-min(language):.2f}, "
            "through lambada",
        ),
        finding(
            "text",
            "what share of the lost accuracy is recovered",
            None,
            "no table has the uncompressed model, so the loss itself is not printed",
        ),
    ]


def ablation(rows: pd.DataFrame) -> list[Finding]:
    """4.2: IDP +0.5 % (OPT) and +0.42 % (Llama), concatenation +0.16 % and -1.03 %."""
    claims = {
        ("Llama-7b", "IDP"): 0.42,
        ("Llama-7b", "Concat"): -1.03,
        ("OPT-6.7b", "IDP"): 0.5,
        ("OPT-6.7b", "Concat"): 0.16,
    }
    findings = []
    for (model, kind), claimed in claims.items():
        gains = {
            ref: round(float(only(rows, 3, model, kind)["Average"] - only(rows, 3, model, ref)["Average"]), 2)
            for ref in ("26", "100")
        }
        close = [ref for ref, gain in gains.items() if abs(gain - claimed) < 0.015]
        text = ", ".join(f"{gain:+.2f} against {ref} tokens" for ref, gain in gains.items())
        findings.append(
            finding("4.2", f"{model}: {kind} changes the Average by {claimed:+.2f}", bool(close), text)
        )
    return findings


def formulas(rows: pd.DataFrame) -> list[Finding]:
    """The appendix's parameter formulas against the printed sizes."""
    d, h, n = HIDDEN, INTERMEDIATE, LAYERS
    printed = {m: [_millions(p) for p in select(rows, 1, m, "lora")["param"]] for m in MODELS}
    written = [n * (8 * d * r + 4 * h * r) / 1e6 for r in (2, 3, 4)]
    opt = [n * r * (4 * 2 * d + 2 * (d + 4 * d)) / 1e6 for r in (2, 3, 4)]
    llama = [n * r * (3 * 2 * d + 3 * (d + h)) / 1e6 for r in (2, 3, 4)]
    prompt, prefix = [t * d / 1e6 for t in (26, 50, 100)], [n * t * d / 1e6 for t in (26, 50, 100)]
    sizes = {k: [_millions(p) for p in select(rows, 1, "OPT-6.7b", k)["param"]] for k in ("prompt", "ptune")}
    return [
        _formula(
            "LoRA: 32 (8 d r + 4 d_inter r)",
            written,
            printed["OPT-6.7b"],
            f"Llama prints {printed['Llama-7b']}",
        ),
        _formula("LoRA on OPT's q, k, v, out, fc1, fc2", opt, printed["OPT-6.7b"], "our choice of modules"),
        _formula(
            "LoRA on Llama's q, k, v, gate, up, down (cut, not rounded)",
            llama,
            printed["Llama-7b"],
            "our choice of modules",
        ),
        _formula("prompt: t d", prompt, sizes["prompt"], "26, 50, 100 tokens"),
        _formula(
            "prefix: 32 t d",
            prefix,
            sizes["ptune"],
            f"26 tokens do not agree (24 would: {n * 24 * d / 1e6:.2f}M); a key and a value per layer would "
            "double all three",
        ),
    ]


def _formula(statement: str, given: list[float], printed: list[float], note: str) -> Finding:
    agrees = all(round(g, 1) == p or int(10 * g) / 10 == p for g, p in zip(given, printed, strict=True))
    text = ", ".join(f"{g:.2f}M" for g in given)
    return finding(
        "appendix", statement, agrees, f"gives {text}; printed {', '.join(f'{p}M' for p in printed)}; {note}"
    )


def evaluation(rows: pd.DataFrame) -> list[Finding]:
    """What the tables can't carry: kinds of tasks, calibration set, error bars."""
    variance = {
        c: np.mean([r[c] / 100 * (1 - r[c] / 100) for _, r in rows.iterrows()]) / n
        for c, n in TEST_ITEMS.items()
    }
    error = 100 * np.sqrt(sum(variance.values())) / len(variance)
    margin = 1.96 * np.sqrt(2) * error
    passing = [
        f"{NAMES[t]} {m} {row['type']} {row['param']} {row['Average'] - only(rows, t, m, '-')['Average']:+.2f}"
        for t in NAMES
        for m in MODELS
        for _, row in select(rows, t, m).iterrows()
        if row["Average"] - only(rows, t, m, "-")["Average"] > margin
    ]
    return [
        finding(
            "text",
            "all tasks are multiple choice",
            False,
            "lambada predicts a last word and triviaqa is answered freely in the usual harness",
        ),
        finding(
            "Tables 1 to 3",
            "which calibration set a row used",
            None,
            "C4 and WikiText are named, rows are not marked",
        ),
        finding(
            "Tables 1 to 3",
            "the gains exceed what sampling of the questions gives",
            None,
            "no error bars or answers per question are printed; with the usual test sets an Average has a binomial "
            f"standard error of about {error:.2f}, an unpaired difference a 95 % margin of {margin:.2f} points, "
            f"passed by {len(passing)} gains: {'; '.join(passing)}; a paired test would be sharper",
        ),
    ]


CLAIMS = [
    parameter_ratio,
    prompt_sizes,
    latency,
    average_gains,
    idp_first,
    prefix_tuning,
    world_knowledge,
    most_recover,
    ablation,
    formulas,
    evaluation,
]
