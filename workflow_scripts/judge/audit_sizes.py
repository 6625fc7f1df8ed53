"""The paper's parameter counts and latencies against its own formulas. Each function returns its findings."""

import pandas as pd

from workflow_scripts.judge.findings import MODELS, Finding, finding, select

HIDDEN, INTERMEDIATE, LAYERS = 4096, 11008, 32  # Llama-7b; OPT-6.7b has fc layers of 4 x 4096
IDP_TOKENS = 150  # 50 + 100
LATENCY = {"prompt": 0.37, "lora": 0.62}  # seconds, section 3.3


def _millions(text: str) -> float:
    return float(text.rstrip("M"))


def parameter_ratio(rows: pd.DataFrame) -> list[Finding]:
    """21x fewer parameters than LoRA; 81 % to 91 % saved, "20-fold"."""
    size = IDP_TOKENS * HIDDEN / 1e6
    ratios, text = [], []
    for model in MODELS:
        loras = [_millions(p) for p in select(rows, 1, model, "lora")["param"]]
        ratios += [lora / size for lora in loras]
        text.append(f"{model} {min(loras) / size:.1f} to {max(loras) / size:.1f}")
    prefix = _millions("13.1M") / size
    # Llama's smallest and largest.
    printed, saved = ([1 - own / lora for lora in (4.4, 8.9)] for own in (0.8, size))
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
            len(set(sizes.values())) == 1,
            "the text says 50 and 100 tokens, Table 3 and Figure 7 say 26 and 100, section 3.3 says 0.8M: "
            + ", ".join(f"{name} are {size:.3f}M" for name, size in sizes.items())
            + "; only 50 + 100 gives the printed 0.6M of Tables 1 and 2",
        )
    ]


def latency(rows: pd.DataFrame) -> list[Finding]:
    """60 % by two measures: less latency (abstract), more speed (3.3), from 0.37 s against 0.62 s."""
    prompt, lora = LATENCY["prompt"], LATENCY["lora"]
    lower, faster = 100 * (1 - prompt / lora), 100 * (lora / prompt - 1)
    return [
        finding(
            "abstract",
            "inference latency reduced by 60 %",
            lower >= 59.5,
            f"{prompt} s is {lower:.1f} % less than {lora} s; it is {100 * prompt / lora:.1f} % of it",
        ),
        finding(
            "3.3",
            "inference speed improved by 60 %",
            faster >= 59.5,
            f"{lora} s over {prompt} s is {lora / prompt:.2f} times the speed, {faster:.1f} % more: "
            "not the abstract's claim, which is of latency",
        ),
        finding(
            "3.3",
            "a prompt takes at most 0.37 s and LoRA 0.62 s (batch 16, sequence 1024)",
            None,
            "the device, the precision and whether LoRA was merged are not printed; merged LoRA costs nothing",
        ),
    ]


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


CLAIMS = (parameter_ratio, prompt_sizes, latency, formulas)
