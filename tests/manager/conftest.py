"""Managers over the real engine, or over a scripted one where it must misbehave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdmanager import DiffusionServerManager, LocalGenerator


@pytest.fixture
async def manager(settings):
    """A manager with the real engine and the demo model; not started."""
    async with DiffusionServerManager(settings) as manager:
        yield manager


@pytest.fixture
async def misbehaving(home, built, fake_engine, monkeypatch):
    """A manager whose engine draws while it is proven, and then does what the test says."""
    settings = replace(home, engine=fake_engine, data_dir=built.data_dir, stop_grace=0.5)
    await LocalGenerator(settings=settings).prepare()

    async with DiffusionServerManager(settings) as manager:

        def behave(mode: str) -> DiffusionServerManager:
            monkeypatch.setenv("FAKE_ENGINE", mode)
            return manager

        yield behave


@pytest.fixture
async def never_starting(home, built, fake_engine, monkeypatch):
    """A manager whose engine hangs while it is proven, so that a start goes on until it is stopped."""
    monkeypatch.setenv("FAKE_ENGINE", "hang")
    settings = replace(home, engine=fake_engine, data_dir=built.data_dir, stop_grace=0.5)
    async with DiffusionServerManager(settings) as manager:
        yield manager
