"""Steps of a plan, which ends, that may have taken effect without a record. Pure."""

from collections.abc import Iterable
from dataclasses import replace

from paybill_contracts.environment_plans import Resource, StepAction, step_key

from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.steps import is_same, is_shared, may_begin


def existing_resources(environment: Environment) -> tuple[Resource, ...]:
    """Returns the resources that exist, or may exist."""
    return (*environment.replaced, *(each.resource for each in environment.built))


def with_unfinished(environment: Environment) -> Environment:
    """Keeps what the plan may have created without a record: the next plan has it, or deletes it."""
    known = existing_resources(environment)
    planned = [step.after for step in (environment.plan.steps if environment.plan else ()) if step.after is not None]
    unfinished = [each for each in planned if not is_shared(each) and not any(is_same(each, other) for other in known)]
    return replace(environment, replaced=(*environment.replaced, *unfinished))


def with_unconfirmed(environment: Environment) -> Environment:
    """Keeps which changes and deletions may have begun: the provider may have done them, or may still do them.

    What was to be changed is set again by the next plan. What was to be deleted may exist, and is no longer what the
    tenant has: a plan that needs it creates it.
    """
    remaining = environment.remaining
    begun = [step for step in remaining if may_begin(step, remaining)]
    changes = {step.key for step in begun if step.before is not None and step.action in _IN_PLACE}
    deleted = [step.resource for step in begun if step.after is None and not is_shared(step.resource)]
    unconfirmed = {*environment.unconfirmed, *changes, *(_deletion_key(each) for each in deleted)}
    leaving = [each.resource for each in environment.built if each.resource in deleted]
    addresses = {each.address for each in leaving}
    return replace(
        environment,
        unconfirmed=tuple(sorted(unconfirmed)),
        built=tuple(each for each in environment.built if each.resource not in leaving),
        replaced=(*environment.replaced, *leaving),
        credentials={key: each for key, each in environment.credentials.items() if key not in addresses},
    )


def confirmed(environment: Environment, resources: Iterable[Resource]) -> tuple[str, ...]:
    """Returns the unconfirmed steps without those about these resources, which are as recorded now."""
    settled = {step_key(action, each.address, each.identity) for each in resources for action in StepAction}
    return tuple(key for key in environment.unconfirmed if key not in settled)


def changes_of(environment: Environment) -> frozenset[str]:
    """Returns the addresses of resources that a plan has to set again."""
    deletions = f"{StepAction.DELETE}:"
    return frozenset(key.split(":")[1] for key in environment.unconfirmed if not key.startswith(deletions))


def may_be_deleted(environment: Environment, resource: Resource) -> bool:
    """Returns whether a deletion of the resource, without a recorded end, may still be under way."""
    return _deletion_key(resource) in environment.unconfirmed


def _deletion_key(resource: Resource) -> str:
    return step_key(StepAction.DELETE, resource.address, resource.identity)


_IN_PLACE = frozenset({StepAction.UPDATE, StepAction.REBUILD})
