"""A simulated Invent API over real HTTP, for the demo, for tests and for benchmarks.

It imports nothing of the rest of the package and shares no parser with it, so that a mistake in
reading the API can't hide behind the same mistake in writing it.
"""

from invent_exporter.simulator.bulk import add_many
from invent_exporter.simulator.catalogue import DEMO_KEY, demo_world, quiet_world
from invent_exporter.simulator.faults import Answer, Fault, Faults
from invent_exporter.simulator.listing import Order
from invent_exporter.simulator.orgs import Org
from invent_exporter.simulator.runs import Call, StepTotal, Usage
from invent_exporter.simulator.server import SimulatorServer
from invent_exporter.simulator.service import Request, Service, Settings
from invent_exporter.simulator.truth import Truth
from invent_exporter.simulator.workflows import Workflow
from invent_exporter.simulator.world import World

__all__ = [
    "DEMO_KEY",
    "Answer",
    "Call",
    "Fault",
    "Faults",
    "Order",
    "Org",
    "Request",
    "Service",
    "Settings",
    "SimulatorServer",
    "StepTotal",
    "Truth",
    "Usage",
    "Workflow",
    "World",
    "add_many",
    "demo_world",
    "quiet_world",
]
