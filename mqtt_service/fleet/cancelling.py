"""The verb `cancel` where it is for many: all that waits for a target, or of a recurring command."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from mqtt_service.config import ProjectSettings
from mqtt_service.fleet.asking import Ask, agrees
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.schedules import TargetWords, target_of, the_schedule
from mqtt_service.fleet.session import open_project


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """What a person wrote after `cancel` instead of commands; `ask` says yes or no to a question."""

    target: TargetWords
    schedule: str | None = None
    command_type: str | None = None
    yes: bool = False
    ask: Ask = field(default=lambda _: False)

    @property
    def names_devices(self) -> bool:
        """Whether it says for which devices."""
        return self.target != TargetWords()


def run_cancel_many(settings: ProjectSettings, request: CancelRequest, *, as_json: bool) -> int:
    """Say how many commands wait, ask, and cancel them; 1 where the answer is no."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            schedule_id: UUID | None = None
            if request.schedule is not None:
                row = the_schedule(request.schedule, await project.schedules.every())
                schedule_id = row.schedule_id
                if row.enabled:
                    output.note(f"{row.name} goes on queueing: mqtt-service schedule pause '{row.name}'")
            target = await target_of(project, request.target) if request.names_devices else None
            kind = request.command_type
            found = await project.commands.cancel_all(target, schedule_id, kind, count_only=True)
            output.say(f"{found} command(s) wait.")
            question = f"Cancel {found} command(s)?"
            if found and not request.yes and not agrees(request.ask, question, "nothing was cancelled"):
                output.note("Nothing was cancelled.")
                return 1
            cancelled = 0
            if found:
                cancelled = await project.commands.cancel_all(target, schedule_id, kind, count_only=False)
                output.say(f"Cancelled: {cancelled}")
        output.document({"found": found, "cancelled": cancelled})
        return 0

    return asyncio.run(run())
