"""Let a Python process reach nothing but this machine; each that tests start imports it first.

An attempt fails, and is written down in the file that `PTYCHOPINN_NETWORK_LOG` names, so that code
which hides the failure is found as well.
"""

import os
import socket
import sys

LOCAL = ('127.0.0.1', '::1', 'localhost', '', None)

CONNECTING = ('socket.connect', 'socket.sendto', 'socket.sendmsg', 'socket.bind')
LOOKING_UP = ('socket.getaddrinfo', 'socket.gethostbyname', 'socket.gethostbyaddr')


def _goes_out(event: str, arguments: tuple[object, ...]) -> bool:
    if event in LOOKING_UP:
        return arguments[0] not in LOCAL
    if event not in CONNECTING:
        return False
    own, address = arguments[0], arguments[1]
    # Sockets of the file system stay in this machine.
    if not isinstance(own, socket.socket) or own.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return isinstance(address, tuple) and address[0] not in LOCAL


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith('socket.') and _goes_out(event, arguments):
        reported = f'{event} {arguments[-1] if event in CONNECTING else arguments[0]!r}'
        log = os.environ.get('PTYCHOPINN_NETWORK_LOG')
        if log:
            with open(log, 'a', encoding='utf-8') as file:
                file.write(f'{reported}\n')
        raise PermissionError(f'Tests reach no network: {reported}')


sys.addaudithook(_watch)
