"""A finished run in words: what went wrong, with the remedy, and what is worth knowing.

`learning_signs` sees what can be told while a run goes on; this adds what needs its end or its data. The
thresholds are rules of thumb, ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from prorank_jax.auc_findings import at_chance, judged_auc, low_auc
from prorank_jax.learning_signs import ALL_RIGHT, TIED_STEPS, learned_at, signs_of_trouble
from prorank_jax.metric_change import metric_change
from prorank_jax.run_facts import DataFacts, RunFacts, skipped_updates

LEAST_FORMAT = 0.9
ONE_ANSWER = 0.02
# Nats of the answer that is sampled, over the last steps: above it both answers come, one in five at least.
UNDECIDED, LAST_STEPS = 0.5, 10
LEAST_QUERIES, LEAST_RELEVANT = 50, 100
MOST_CUT = 0.2
CLIPPED_ALWAYS = 0.95
_STANDARD_ERRORS = 3.0
_ADVISE_EXCERPTS = "; data.excerpts key_sentences shows the part that the query asks about."


def diagnose(facts: RunFacts) -> dict[str, str]:
    """What went wrong in a finished run: kind of the trouble → a sentence with the remedy; none: nothing."""
    signs = signs_of_trouble(facts.metrics, facts.probes, facts.goals)
    found = {
        "one answer": _one_answer(facts),
        "format": _no_format(facts),
        "few examples": _few_examples(facts.data),
        "learning rate": _rate_too_high(facts),
        "skipped updates": _skipped(facts),
        "scores": _scores_not_finite(facts),
        "chance": at_chance(facts),
    }
    return signs | {kind: sentence for kind, sentence in found.items() if sentence}


def remarks(facts: RunFacts) -> list[str]:
    """What is no trouble, but worth knowing."""
    said = []
    data, first, last = facts.data, facts.probes[0], facts.probes[-1]
    cut = cut_prompts(data, MOST_CUT, facts.shows_key_sentences)
    if cut:
        said.append(cut)
    if facts.stage == 2 and first.format_rate >= LEAST_FORMAT > last.format_rate:
        said.append(
            f"The format rate fell from {first.format_rate:.2f} to {last.format_rate:.2f}. Scores do not "
            "need the format; if you read the answers too, give a "
            f"{'higher ' if facts.holds_format else ''}ranking.format_coefficient "
            f"{'' if facts.holds_format else '(0.1) '}or a lower optimizer.learning_rate."
        )
    low = low_auc(facts)
    if low:
        said.append(low)
    learned = learned_at(facts.metrics, facts.goals)
    if learned is not None and "tied groups" not in diagnose(facts):
        most = facts.goals.greatest_accuracy
        held = f"About {most:.0%} of the sampled answers, as many as grpo.entropy_coefficient allows,"
        said.append(
            f"{held if most < ALL_RIGHT else 'All sampled answers'} were right for {TIED_STEPS} steps up to "
            f"step {learned}: the task is learned, and its reward teaches no more; stage 2 can start from "
            "this run."
        )
    return said


def cut_prompts(data: DataFacts, most_untold: float, shows_key_sentences: bool) -> str:
    """Tells that more than this share of the prompts is cut, with the remedy; else ""."""
    if data.cut <= most_untold * data.examples:
        return ""
    return (
        f"{data.cut / data.examples:.0%} of the prompts fill data.max_length: part of their document is "
        "not seen. A larger one shows more of it, at the price of time and memory"
        + ("." if shows_key_sentences else _ADVISE_EXCERPTS)
    )


def conclusion(facts: RunFacts, findings: Mapping[str, str]) -> str:
    """One sentence about the whole run."""
    first, last = facts.probes[0], facts.probes[-1]
    name, before, after = judged_auc(facts)
    if first.step:
        how = "Finished"
        change = (
            f"held-out {name} {after:.3f}, accuracy {last.accuracy:.3f} after ({last.examples} prompts); "
            "those before are not known"
        )
    else:
        nothing_rose = f"Finished, and nothing is wrong but that the {name} did not rise"
        how = "Finished well" if after > before else nothing_rose
        change = (
            f"held-out {name} {before:.3f} before, {after:.3f} after; "
            f"accuracy {first.accuracy:.3f} before, {last.accuracy:.3f} after ({last.examples} prompts)"
        )
    if findings:
        return f"This run needs a look ({', '.join(findings)}): {change}."
    following = (
        "stage 2 can start from it with --init" if facts.stage == 1 else "launch/evaluate.py ranks with it"
    )
    return f"{how}: {change}. Next: {following}."


def _one_answer(facts: RunFacts) -> str:
    last = facts.probes[-1]
    if (
        facts.stage != 1
        or last.format_rate < LEAST_FORMAT
        or ONE_ANSWER < last.relevant_share < 1 - ONE_ANSWER
    ):
        return ""
    answer = "1" if last.relevant_share > 0.5 else "0"
    share = max(last.relevant_share, 1 - last.relevant_share)
    entropies = [record.get("answer_entropy", 0.0) for record in facts.metrics[-LAST_STEPS:]]
    entropy = sum(entropies) / max(len(entropies), 1)
    if entropy > UNDECIDED:
        return (
            f"undecided so far: the greedy answer is {answer!r} to {share:.0%} of the held-out prompts, but "
            f"sampled ones are both (answer entropy {entropy:.2f}, of at most 0.69 nats); train for more "
            "steps (the distinction comes after the format)"
        )
    return (
        f"the policy collapsed: it answers {answer!r} to {share:.0%} "
        "of the held-out prompts, relevant or not; raise grpo.entropy_coefficient, lower "
        "optimizer.learning_rate, or train for more steps (the distinction comes after the format)"
    )


def _no_format(facts: RunFacts) -> str:
    last = facts.probes[-1]
    if facts.stage != 1 or last.format_rate >= LEAST_FORMAT:
        return ""
    said = f"only {last.format_rate:.0%} of the held-out answers are exactly '0' or '1'"
    had = [place for place, probe in enumerate(facts.probes) if probe.format_rate >= LEAST_FORMAT]
    if had:
        kept, lost = facts.probes[had[-1]], facts.probes[had[-1] + 1]
        taken = f"; RUN@{kept.step} is the checkpoint of that step, if it was kept" if kept.step else ""
        return (
            f"{said}: {kept.format_rate:.0%} of them were at step {kept.step}, which was lost by step "
            f"{lost.step}; start again with a lower optimizer.learning_rate{taken}"
        )
    return (
        f"{said}; train for more steps, or raise optimizer.learning_rate, grpo.format_weight or "
        "grpo.forced_ends"
    )


def _few_examples(data: DataFacts) -> str:
    if data.queries >= LEAST_QUERIES and data.relevant >= LEAST_RELEVANT:
        return ""
    return (
        f"{data.queries} queries with {data.relevant} relevant documents are few to learn from (at least "
        f"{LEAST_QUERIES} and {LEAST_RELEVANT}; thousands are better): what holds for them may not hold for "
        "others; judge more queries, or lower data.relevant_grade if lower grades are relevant too"
    )


def _rate_too_high(facts: RunFacts) -> str:
    """The loss of stage 2 rises, or the reward of stage 1 falls: its policy loss hovers around 0 anyway."""
    name, sign = ("reward", -1) if facts.stage == 1 else ("loss", 1)
    change = metric_change(facts.metrics, name)
    if change is None or sign * change.errors <= _STANDARD_ERRORS:
        return ""
    norms = [record["grad_norm"] for record in facts.metrics if record.get("grad_norm") is not None]
    clipped = sum(norm > facts.max_grad_norm for norm in norms) / max(len(norms), 1)
    always = f", and {clipped:.0%} of the gradients were clipped" if clipped >= CLIPPED_ALWAYS else ""
    return (
        f"the {name} went from {change.start:.3f} (first quarter of the steps) to "
        f"{change.end:.3f} (last quarter){always}: the rate is too high; lower "
        "optimizer.learning_rate, or give optimizer.warmup_steps more steps"
    )


def _skipped(facts: RunFacts) -> str:
    count = skipped_updates(facts)
    if not count:
        return ""
    also = "" if facts.computes_in_float32 else ", or set model.compute_dtype to float32"
    return (
        f"{count} updates were skipped because the loss or the gradient was not finite; lower "
        f"optimizer.learning_rate{also}"
    )


def _scores_not_finite(facts: RunFacts) -> str:
    """A score is NaN or infinite where the parameters are, or where the model overflows its dtype."""
    for probe in facts.probes:
        count = sum(not math.isfinite(score) for score in probe.scores)
        if count:
            break
    else:
        return ""
    said = f"{count} of {probe.examples} held-out scores after step {probe.step} are not finite"
    wider = "model.compute_dtype to float32"
    if probe.step > 0:
        also = "" if facts.computes_in_float32 else f", or set {wider}"
        return f"{said}: the parameters have grown out of range; lower optimizer.learning_rate{also}"
    if facts.computes_in_float32:
        return f"{said}, before any training: give another model.source, or look for damage in this one"
    return f"{said}, before any training: the model overflows; set {wider}"
