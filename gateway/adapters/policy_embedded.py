"""The port `PolicyEngine` on the embedded Rego engine.

A decision takes tens of microseconds, less than a switch to a thread would, so it runs where it is asked, bounded by its
deadline. Time and the seed of random builtins come from the question, so that the same question, put again to the same
revision, has the same answer.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.adapters.policy_files import PolicyFiles, load_policies
from gateway.model.errors import PolicyEvaluationError, PolicyTimeout
from gateway.ports import UNDEFINED
from gateway.rego import UNDEFINED as NOT_DEFINED
from gateway.rego import EvalError, Policy
from gateway.rego.errors import CANCEL

logger = logging.getLogger("gateway.adapters.policy_embedded")

VISIBLE_SECONDS = 5.0
"""How long asking `visible` for all items of a list may take."""


class EmbeddedPolicy:
    """Compiled policies.

    Args:
        files: what was compiled; its revision goes into every record.
        policy: the compiled policies.
        decision: the path that is asked, `gateway/decision`.
    """

    def __init__(self, files: PolicyFiles, policy: Policy, *, decision: str = "gateway/decision") -> None:
        self.files = files
        self.policy = policy
        self.revision = files.revision
        self._decision = decision
        self._decide = policy.prepare("data." + decision.replace("/", "."))
        self._visible = policy.prepare("data.gateway.visible")

    def document(self) -> bytes:
        """What was compiled, for the store."""
        return self.files.document(self._decision)

    async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        """As the port says; never unavailable."""
        return self._evaluate(self._decide, question, time.monotonic() + timeout_seconds)

    async def visible(self, questions: Sequence[Mapping[str, Any]]) -> Sequence[bool | None]:
        """As the port says; an answer that is no boolean is an error."""
        deadline = time.monotonic() + VISIBLE_SECONDS
        answers: list[bool | None] = []
        for question in questions:
            answer = self._evaluate(self._visible, question, deadline)
            if answer is UNDEFINED:
                answers.append(None)
            elif isinstance(answer, bool):
                answers.append(answer)
            else:
                raise PolicyEvaluationError("data.gateway.visible is neither true nor false")
        return answers

    def _evaluate(self, prepared: Any, question: Mapping[str, Any], deadline: float) -> Any:
        context = question["context"]
        try:
            answer = prepared(
                question,
                time_ns=context.get("time_ns"),
                seed=context.get("call_id"),
                deadline=deadline,
            )
        except EvalError as error:
            if error.code == CANCEL:
                raise PolicyTimeout(f"the policy did not answer in time ({error})") from None
            raise PolicyEvaluationError(str(error)) from None
        except Exception as error:
            # A fault of the engine itself, or no memory left: a denial like any other failure, and never an answer.
            logger.exception("the policy engine failed")
            raise PolicyEvaluationError(f"the engine failed: {type(error).__name__}: {error}") from error
        return UNDEFINED if answer is NOT_DEFINED else answer


def embedded_policy(path: Path, *, shown: str = "", decision: str = "gateway/decision") -> EmbeddedPolicy:
    """Load the policies at a path (`embedded:PATH`): a directory, or a `.tar.gz` bundle.

    Raises:
        PolicyLoadError: they cannot be used; with a line for each fault.
    """
    files, policy = load_policies(path, shown=shown, decision=decision)
    return EmbeddedPolicy(files, policy, decision=decision)
