"""What a notebook keeps of a view as text, where its user asked for it: the question and its numbers."""

from __future__ import annotations

import logging

from interp_widgets.answer import Answer
from interp_widgets.model.question import Question, Token
from interp_widgets.session import Session, Snapshot

log = logging.getLogger("interp_widgets")
EXAMPLES = 20  # of a prompt set are written out


def saved_text(session: Session) -> str:
    """The question, what is done to the model, and the answer, one line each; computes the answer if there is none yet.

    Example:
        >>> print(saved_text(session))  # doctest: +SKIP
        Asked when this cell ran: 'The cat sat on the' → ' mat' over ' moon'
        Done to the model: ablate L1H3, zero
        logit difference 2.97, 4.11 with nothing on; target at 71.2 %, rank 1
        Next tokens: ' mat' 71.2 %, ' floor' 6.0 %
    """
    snapshot = session.snapshot()
    question = snapshot.question
    if question is None:
        return "Nothing had been asked when this cell ran."
    done = ", ".join(one.label for one in snapshot.interventions) or "nothing"
    return "\n".join([_asked(question), f"Done to the model: {done}", _numbers(session, snapshot, question)])


def _asked(question: Question) -> str:
    shown = [f"{one.prompt!r} → {_tokens(one.target)}{_over(one.foil)}" for one in question.examples[:EXAMPLES]]
    if question.n == 1:
        return f"Asked when this cell ran: {shown[0]}"
    more = [f"and {question.n - EXAMPLES} more"] if question.n > EXAMPLES else []
    return "\n  ".join([f"{question.n} prompts, asked when this cell ran:", *shown, *more])


def _tokens(tokens: tuple[Token, ...]) -> str:
    return " | ".join(repr(token.text) for token in tokens)


def _over(foil: tuple[Token, ...]) -> str:
    return f" over {_tokens(foil)}" if foil else ""


def _numbers(session: Session, snapshot: Snapshot, question: Question) -> str:
    try:
        answer = session.compute(snapshot)
    except Exception as error:  # the view says it too; a cell whose view is shown must not fail for the text beside it
        log.debug("no answer to save", exc_info=True)
        return f"No answer: {error}"
    of = "Next tokens" if question.n == 1 else "Next tokens of the first prompt"
    return f"{_metric(question, answer)}\n{of}: {_top(answer)}"


def _metric(question: Question, answer: Answer) -> str:
    spread = "" if answer.interval is None else f" ± {answer.interval:.3g} (95 %)"
    chance = f"target at {100 * answer.target_probability:.3g} %, rank {answer.rank:g}"
    return f"{question.label} {answer.metric:.4g}{spread}, {answer.plain_metric:.4g} with nothing on; {chance}"


def _top(answer: Answer) -> str:
    return ", ".join(f"{one.text!r} {100 * one.probability:.3g} %" for one in answer.top)
