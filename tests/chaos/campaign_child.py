"""A process that drives a campaign over two clusters, and may be killed at any moment.

campaign_child.py LEDGER COUNT PROFILE...
"""

from __future__ import annotations

import sys

from clusterjob import Campaign, JobScript, Retry, sweep


def main() -> None:
    ledger, count, *profiles = sys.argv[1:]
    campaign = Campaign(
        "two", profiles=profiles, max_pending=max(20, int(count) // 4), retry=Retry(2)
    )
    # an append of a short line is one write
    job = JobScript(f"echo {{{{ n }}}} >> {ledger}", "task")
    first = campaign.add(sweep(job, n=range(int(count))))
    campaign.add(JobScript(f"echo last >> {ledger}", "last"), after=first)
    print("ready", flush=True)
    outcome = campaign.run()
    print(outcome, flush=True)
    sys.exit(0 if outcome.is_complete else 1)


main()
