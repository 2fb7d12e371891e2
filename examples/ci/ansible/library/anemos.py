#!/usr/bin/python3
"""Deploys hosts with Anemos, from the machine that has their hosts.toml."""

import json
import os
import subprocess

DOCUMENTATION = r"""
module: anemos
short_description: Deploy hosts with Anemos
description:
  - Runs C(anemos plan --json --detailed-exitcode), and then, but in check mode, C(anemos up --yes --json) for the hosts
    that would be changed.
  - Hosts that are what a deployment would make of them, by the journals on this machine, are left alone. If any host
    can't be looked at or deployed, nothing is done to any.
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
    description: Deploy hosts also that are what a deployment would make of them, which wipes them again.
    type: bool
    default: false
  update_known_hosts:
    description: Put the host keys that new systems proved to have into known_hosts. Without it, nobody can log into one
      that has keys of its own, and so the next run of this module fails.
    type: bool
    default: true
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
changed_hosts:
  description: The hosts that are deployed, or in check mode would be. With C(force) that is all of them.
  type: list
  returned: when hosts were looked at
plans:
  description: What would be done to each host if it were deployed, as docs/JSON.md describes C(plan).
  type: list
  returned: when hosts were looked at
"""

# What `anemos plan --detailed-exitcode` says.
SAME, CHANGE = 0, 5


class Unusable(Exception):
    """The command is not there, or is not what this module knows. `changed`: hosts may have been changed."""

    def __init__(self, why, changed=False):
        super().__init__(why)
        self.changed = changed


def called(params, words):
    """Runs anemos. Returns its exit status, its lines of JSON by their type, and what it said to people."""
    command = [params["executable"], *words]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise Unusable(f"{command[0]} can't be run: {error}") from error
    said = done.stderr.decode(errors="replace")
    lines = {}
    # JSON Lines end with a newline only; str.splitlines() knows more ends than that.
    for line in filter(None, done.stdout.split(b"\n")):
        try:
            value = json.loads(line)
            lines.setdefault(value["type"], []).append(value)
        except (ValueError, TypeError, KeyError) as error:
            shown = line[:200].decode(errors="replace")
            why = f"{command[0]} {words[0]} ended with {done.returncode}, and wrote what is no line of its JSON: {shown}"
            raise Unusable(f"{why}\n{said}".strip(), changed=words[0] == "up") from error
    return done.returncode, lines, said


def run(params, check_mode):
    """Does what the parameters say. Returns the result, in which `failed` says whether that went wrong."""
    try:
        return carried_out(params, check_mode)
    except Unusable as error:
        return {"changed": error.changed, "failed": True, "msg": str(error)}


def carried_out(params, check_mode):
    """Does it."""
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
        hosts = [line["host"] for line in lines.get("change", []) if line["changed"] or params["force"]]
        result["changed_hosts"] = hosts
        if not hosts and (status == CHANGE or params["force"]):
            # Without a name it would be all hosts.
            return {**result, "failed": True, "msg": "anemos plan does not say which hosts would be changed"}
        if check_mode or not hosts:
            return {**result, "changed": bool(hosts)}
        which[1:] = hosts
        words = ["up", "--yes", "--json"]
    elif check_mode:
        return {**result, "changed": True, "skipped": True, "msg": "a plan is only carried out"}
    else:
        words = ["up", "--plan", os.fspath(params["plan"]), "--json"]
    if params["update_known_hosts"]:
        words.append("--update-known-hosts")
    for report in params["report"]:
        words += ["--report", os.fspath(report)]
    status, lines, said = called(params, [*words, *which])
    summaries = lines.get("summary", [])
    result["summaries"] = summaries
    result["changed"] = any(end["outcome"] != "untouched" for end in summaries)
    if status == 0 and not summaries:
        result.update(failed=True, msg="anemos up does not say how any host ended; anemos status does")
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
        "update_known_hosts": {"type": "bool", "default": True},
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
