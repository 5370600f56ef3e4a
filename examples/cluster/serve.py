"""Fine-tuned models on a cluster with Ray Serve: the application of `sweeper serve`, as many replicas as are asked for.

    pip install "sweeper-advisor[serve]" "ray[serve]"      on every node
    export SWEEPER_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')
    serve run examples/cluster/serve.yaml

Adapters must lie where every node can read them. The guard works in each replica: a rate is what one replica lets
through. Put TLS in front of whatever other machines can reach.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application

if TYPE_CHECKING:
    from sweeper.guard import Guard


def build(args: dict[str, Any]) -> Application:
    """Return the application that a configuration describes.

    Args:
        args: ``adapters``, folders by the names that requests call them; ``hosts``, further names of the service;
            ``rate``, requests a minute.
    """
    adapters = {name: Path(folder) for name, folder in args["adapters"].items()}
    hosts, rate, token = args.get("hosts", []), int(args.get("rate", 600)), os.environ.get("SWEEPER_TOKEN", "")
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,512}", token):
        raise ValueError("SWEEPER_TOKEN must hold the token that requests carry, 16 characters or more")

    def application() -> Guard:
        """Load the models: in each replica, once."""
        from sweeper.guard import Guard, Limits
        from sweeper.predict import load_all
        from sweeper.service import service

        names = {"localhost", "127.0.0.1", "::1", *hosts}
        return Guard(service(load_all(adapters)), token, names, limits=Limits(per_minute=rate))

    return serve.deployment(serve.ingress(application)(), name="sweeper").bind()
