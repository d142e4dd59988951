"""Speaks to the lab's rack: one line to its socket, one line back."""

import socket


def tell(path, *words):
    """What the rack answers to a few words."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as rack:
        rack.settimeout(30)
        rack.connect(path)
        rack.sendall((" ".join(words) + "\n").encode())
        answer = rack.makefile().readline().strip()
    if answer.startswith("error"):
        raise RuntimeError(answer)
    return answer
