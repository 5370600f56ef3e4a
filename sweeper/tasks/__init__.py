"""The work that strategies are measured on: one source of rows a file, and this table."""

from sweeper.registry import with_plugins
from sweeper.tasks.base import Split, Task, TaskData
from sweeper.tasks.digits import DIGIT_TASKS
from sweeper.tasks.texts import FilmReviews

_SHIPPED: tuple[Task, ...] = (*DIGIT_TASKS, FilmReviews())

TASKS: dict[str, Task] = with_plugins({task.name: task for task in _SHIPPED}, "sweeper.tasks")

__all__ = ["TASKS", "Split", "Task", "TaskData"]
