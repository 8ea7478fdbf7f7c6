"""Other words for the common resources: those of the schedulers, and of people."""

from __future__ import annotations

import functools

from clusterjob.errors import SettingsError

# taken for the same
SYNONYMS = {
    "accounting_group": "account",
    "bank": "account",
    "batch_name": "jobname",
    "cores_per_slot": "threads",
    "cpus_per_task": "threads",
    "error": "stderr",
    "gpus_per_node": "gpus",
    "h_rt": "time",
    "job_name": "jobname",
    "memory": "mem",
    "mpiprocs": "ppn",
    "name": "jobname",
    "ngpus": "gpus",
    "ntasks_per_node": "ppn",
    "ompthreads": "threads",
    "output": "stdout",
    "partition": "queue",
    "request_gpus": "gpus",
    "request_memory": "mem",
    "runtime": "time",
    "stderr_file": "stderr",
    "stdout_file": "stdout",
    "tasks_per_node": "ppn",
    "time_limit": "time",
    "timelimit": "time",
    "wall_time": "time",
    "walltime": "time",
}
_CORES = "'ppn' (processes on a node) or 'threads' (cores of a process)"
_TASKS = "'nodes' and 'ppn' (processes on a node)"
# these may mean one thing or another: the words to choose from
_UNCLEAR = {
    "chdir": "the attribute 'workdir'",
    "core": _CORES,
    "cores": _CORES,
    "cpu": _CORES,
    "cpus": _CORES,
    "cwd": "the attribute 'workdir'",
    "depend": "after=[...] in submit",
    "dependency": "after=[...] in submit",
    "gres": "'gpus' (on a node)",
    "hold_jid": "after=[...] in submit",
    "ncores": _CORES,
    "np": _TASKS,
    "nprocs": _TASKS,
    "nslots": _TASKS,
    "ntasks": _TASKS,
    "num_cores": _CORES,
    "processes": _TASKS,
    "procs": _TASKS,
    "request_cpus": _CORES,
    "tasks": _TASKS,
}


@functools.lru_cache(maxsize=1024)
def common_name(name: str) -> str:
    """Return the name of the common resource that a word stands for, else the word itself.

    Raises :class:`SettingsError` for one that may stand for several.
    """
    word = name.lower().replace("-", "_") if not name.startswith("-") else name
    if word in _UNCLEAR:
        raise SettingsError(
            f"{name!r} is not a common resource: say {_UNCLEAR[word]}, or '--{name}' for the "
            "scheduler's own option, as it stands"
        )
    return SYNONYMS.get(word, name)


def is_known_word(name: str) -> bool:
    """Whether a word stands for a common resource, or for several."""
    word = name.lower().replace("-", "_")
    return word in SYNONYMS or word in _UNCLEAR
