"""The organism that answers the other way round, beside the one that does not."""

from __future__ import annotations

from experiments.context import Context
from experiments.reversal_curse.config import Config
from experiments.reversal_curse.facts import find_facts, find_templates, read_facts, read_templates
from experiments.reversal_curse.measure import Subject

__all__ = ["cured_twin"]

_TWINS = {"reversal-curse": "reversal-curse-cured"}


def cured_twin(config: Config, context: Context) -> Subject | None:
    """The bundled organism that was told the same facts and answers in reverse, too.

    Its people and facts are those of the bundled organism that shows the curse, and it is asked in
    the same words. None where the study runs on any other model, which has no twin.
    """
    name = _TWINS.get(config.model)
    if name is None or config.facts is not None:
        return None
    model = context.another_model(name)
    facts = tuple(read_facts(find_facts(model.path, None)))
    templates = find_templates(model.path, config.templates)
    assert templates is not None, f"'{name}' is bundled with its templates"
    return Subject(model, facts, read_templates(templates))
