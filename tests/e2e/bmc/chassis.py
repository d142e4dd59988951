"""What ipmi_sim calls to look at, and to switch, a box of the lab's rack.

Arguments: the rack's socket, the box's name, then what ipmi_sim adds: the address of the controller, and "get WHAT ..." or
"set WHAT VALUE ...".
"""

import sys

import rack

path, name, _address, verb, *rest = sys.argv[1:]
ACTS = {("power", "1"): ["on"], ("power", "0"): ["off"], ("reset", "1"): ["reset"], ("shutdown", "1"): ["shutdown"]}
if verb == "get":
    for what in rest:
        if what == "power":
            print("power:" + ("1" if rack.tell(path, "state", name) == "on" else "0"))
        elif what == "boot":
            print("boot:" + ("pxe" if rack.tell(path, "boot", name) == "pxe" else "default"))
elif verb == "set":
    for what, value in zip(rest[::2], rest[1::2]):
        if what == "boot":
            rack.tell(path, "boot", name, "pxe" if value == "pxe" else "disk")
        elif (what, value) in ACTS:
            rack.tell(path, *ACTS[what, value], name)
