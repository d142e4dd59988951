"""sushy-tools' own Redfish service, whose systems are the boxes of the lab's rack.

Arguments: the rack's socket, address, port, certificate, key, file with users. Its log has a line for each request.
"""

import ssl
import sys

import rack
from sushy_tools import error
from sushy_tools.emulator import main as sushy
from sushy_tools.emulator.resources.systems.base import AbstractSystemsDriver

SOCKET, ADDRESS, PORT, CERTIFICATE, KEY, USERS = sys.argv[1:7]
ACTS = {
    "On": "on",
    "ForceOn": "on",
    "ForceOff": "off",
    "GracefulShutdown": "shutdown",
    "ForceRestart": "reset",
}


class Boxes(AbstractSystemsDriver):
    """Systems are boxes, by their names."""

    @property
    def driver(self):
        return "<rack>"

    @property
    def systems(self):
        return rack.tell(SOCKET, "names").split()

    def _known(self, identity):
        if identity not in self.systems:
            raise error.NotFound(f"There is no box {identity} in this rack")
        return identity

    def uuid(self, identity):
        return self._known(identity)

    def name(self, identity):
        return self._known(identity)

    def get_power_state(self, identity):
        return "On" if rack.tell(SOCKET, "state", self._known(identity)) == "on" else "Off"

    def set_power_state(self, identity, state):
        if state not in ACTS:
            raise error.BadRequest(f"This rack does not know {state}")
        rack.tell(SOCKET, ACTS[state], self._known(identity))

    def get_boot_device(self, identity):
        return "Pxe" if rack.tell(SOCKET, "boot", self._known(identity)) == "pxe" else "Hdd"

    def set_boot_device(self, identity, boot_source):
        rack.tell(SOCKET, "boot", self._known(identity), "pxe" if boot_source == "Pxe" else "disk")


sushy.Application.systems = property(lambda self: Boxes())
sushy.app.configure(extra_config={"SUSHY_EMULATOR_AUTH_FILE": USERS})
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
sushy.app.run(host=ADDRESS, port=int(PORT), ssl_context=context, threaded=True)
