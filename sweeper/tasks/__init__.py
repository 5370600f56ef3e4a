"""The work that strategies are measured on: one source of rows a file, and this table."""

from collections.abc import Callable

from sweeper.registry import find, with_plugins
from sweeper.tasks import own
from sweeper.tasks.base import Split, Task, TaskData
from sweeper.tasks.dates import DATE_TASKS
from sweeper.tasks.digits import DIGIT_TASKS
from sweeper.tasks.entities import Entities
from sweeper.tasks.images import IMAGE_TASKS
from sweeper.tasks.newsgroups import Newsgroups, NewsgroupVectors
from sweeper.tasks.numbers import Diabetes, ProductPrices
from sweeper.tasks.parts_of_speech import PartsOfSpeech
from sweeper.tasks.texts import FilmReviews
from sweeper.tasks.topics import TOPIC_TASKS

_SHIPPED: tuple[Task, ...] = (
    *DIGIT_TASKS,
    *IMAGE_TASKS,
    FilmReviews(),
    Newsgroups(),
    NewsgroupVectors(),
    Diabetes(),
    ProductPrices(),
    Entities(),
    *DATE_TASKS,
    PartsOfSpeech(),
    *TOPIC_TASKS,
)

TASKS: dict[str, Task] = with_plugins({task.name: task for task in _SHIPPED}, "sweeper.tasks")

# "family:rest" -> the task that the family makes for the rest of the name.
FAMILIES: dict[str, Callable[[str], Task]] = {own.FAMILY: own.find}


def find_task(name: str) -> Task:
    """Return a task in the table, or one that a family knows by name.

    Raises:
        ValueError: there is no such task.
    """
    return find("task", name, TASKS, FAMILIES)


__all__ = ["FAMILIES", "TASKS", "Split", "Task", "TaskData", "find_task"]
