#!/usr/bin/python3
"""Deploys hosts with Anemos, from the machine that has their hosts.toml."""

import json
import os
import subprocess

DOCUMENTATION = r"""
module: anemos
short_description: Deploy hosts with Anemos
description:
  - Runs C(anemos up --yes --json), and in check mode C(anemos plan --json --detailed-exitcode).
  - Hosts that are what a deployment would make of them, by the journals on this machine, are left alone.
options:
  hosts_file:
    description: The hosts.toml.
    type: path
    required: true
  hosts:
    description: Names, patterns, groups and tags of hosts in it. All, if there are none.
    type: list
    elements: str
    default: []
  plan:
    description: A file that C(anemos plan -o) wrote. What it shows is done, or nothing.
    type: path
  force:
    description: Deploy hosts again that are what a deployment would make of them.
    type: bool
    default: false
  report:
    description: Files to write reports of the run to, which end in .xml or .html.
    type: list
    elements: path
    default: []
  executable:
    description: The command.
    type: path
    default: anemos
"""

EXAMPLES = r"""
- anemos:
    hosts_file: fleet/hosts.toml
    hosts: ["@web"]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
summaries:
  description: How each host ended, as docs/JSON.md describes C(summary).
  type: list
  returned: when hosts were deployed
plans:
  description: What would be done to each host, as docs/JSON.md describes C(plan).
  type: list
  returned: when hosts were looked at
"""

# What `anemos plan --detailed-exitcode` says.
SAME, CHANGE = 0, 5


def called(params, words):
    """Runs anemos. Returns its exit status, its lines of JSON by their type, and what it said to people."""
    command = [params["executable"], *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = {}
    for line in done.stdout.splitlines():
        value = json.loads(line)
        lines.setdefault(value["type"], []).append(value)
    return done.returncode, lines, done.stderr


def run(params, check_mode):
    """Does what the parameters say. Returns the result, in which `failed` says whether that went wrong."""
    which = [os.fspath(params["hosts_file"]), *params["hosts"]]
    if params["hosts_file"].find("/") < 0:
        # A name without a slash would be a host, unless it ends in .toml.
        which[0] = os.path.join(".", which[0])
    result = {"changed": False, "failed": False}
    if params["plan"] is None:
        status, lines, said = called(params, ["plan", "--json", "--detailed-exitcode", *which])
        result["plans"] = lines.get("plan", [])
        if status not in (SAME, CHANGE):
            return {**result, "failed": True, "msg": said.strip() or f"anemos plan ended with {status}"}
        if check_mode or (status == SAME and not params["force"]):
            return {**result, "changed": status == CHANGE or params["force"]}
        words = ["up", "--yes", "--json"]
    elif check_mode:
        return {**result, "changed": True, "skipped": True, "msg": "a plan is only carried out"}
    else:
        words = ["up", "--plan", os.fspath(params["plan"]), "--json"]
    for report in params["report"]:
        words += ["--report", os.fspath(report)]
    status, lines, said = called(params, [*words, *which])
    summaries = lines.get("summary", [])
    result["summaries"] = summaries
    result["changed"] = any(end["outcome"] != "untouched" for end in summaries)
    if status != 0:
        ends = [f"{end['host']} is {end['outcome']}: {end['reason']}" for end in summaries
                if end["outcome"] != "deployed"]
        result.update(failed=True, msg="; ".join(ends) or said.strip() or f"anemos up ended with {status}")
    return result


def main():
    """The module."""
    from ansible.module_utils.basic import AnsibleModule  # pylint: disable=import-outside-toplevel

    strings = {"type": "list", "elements": "str", "default": []}
    spec = {
        "hosts_file": {"type": "path", "required": True},
        "hosts": strings,
        "plan": {"type": "path"},
        "force": {"type": "bool", "default": False},
        "report": {"type": "list", "elements": "path", "default": []},
        "executable": {"type": "path", "default": "anemos"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    result = run(module.params, module.check_mode)
    if result.pop("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
