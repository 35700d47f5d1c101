"""A simulated Qumulo Core: the key store and snapshot locks of its REST API, over TLS on loopback.

    python core.py [--port 0] [--token TOKEN]

prints one JSON line `{"port": N}` once it listens. From then on every line of standard input is a
JSON command, answered by one JSON line on standard output; the end of standard input ends the
program, so it never outlives the test that started it.

Commands
    {"op": "state"}                             keys (with their version) and snapshots
    {"op": "add_key", "key": {...}}             store a key without any proof; the stored key
    {"op": "modify_key", "id": "1", ...}        change name, comment or disabled; the key
    {"op": "add_snapshot", "snapshot": {...}}   store a snapshot; the snapshot
    {"op": "modify_snapshot", "id": 7, ...}     change any of its fields; the snapshot
    {"op": "challenge_text", "text": T}         T is every challenge; null: the usual ones
    {"op": "page_limit", "limit": N}            key usages come N to a page; null: on one page
    {"op": "fault", "on": OPERATION, "kind": KIND, ...}
    {"op": "clear_faults"}
    {"op": "requests"}                          what came in: method, path, operation, body, status
    {"op": "clear_requests"}                    (status is null for an answer never given)

A command that cannot be carried out is answered by {"error": TEXT}.

Faults
    `on` is an operation of ROUTES. `times` says how often (default 1, 0 is always); `id`, when
    given, narrows the fault to one snapshot id or key reference. Faults of one operation queue up:
    the second takes over once the first is used up. A kind that ends in `_after` carries the
    request out first; the others leave no trace.

    drop_before, drop_after         close the connection without an answer
    status, status_after            answer "status" (and "error_class", "description", "inner")
    slow, slow_after                wait "seconds" before, or after, carrying out; then answer
    not_json, not_json_after        answer 200 with text that is no JSON
    truncated, truncated_after      answer 200 with the first half of the JSON
    cut, cut_after                  close the connection in the middle of the answer's body
    empty, empty_after              answer "status" (200) with no body
    html_502, html_502_after        answer 502 with a proxy's HTML page
    stale                           replace_key, unlock: the challenge changes just before the
                                    signature is looked at (a `challenge_text` does not)

The paths, fields and status codes are those of the real API. Its error classes and texts are only
known in part: tests should show them, not depend on them.
"""

import argparse
import base64
import binascii
import copy
import datetime
import json
import re
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse

from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

KEYS = '/v1/file-system/security/keys/'
# Method, path, operation. The one group of a path is the key reference or the snapshot id.
ROUTES = [
    (method, re.compile(path), operation)
    for method, path, operation in (
        ('GET', KEYS, 'list_keys'),
        ('POST', KEYS, 'add_key'),
        ('GET', KEYS + '([^/]+)', 'get_key'),
        ('PATCH', KEYS + '([^/]+)', 'modify_key'),
        ('DELETE', KEYS + '([^/]+)', 'delete_key'),
        ('GET', KEYS + '([^/]+)/usages', 'key_usage'),
        # What `qq` 6.1.0.x asks for in place of the above.
        ('GET', KEYS + '([^/]+)/usage', 'key_usage_unpaged'),
        ('GET', KEYS + '([^/]+)/key-replacement-challenge', 'replace_challenge'),
        ('POST', KEYS + '([^/]+)/replace', 'replace_key'),
        ('GET', '/v4/snapshots/status/', 'list_statuses'),
        ('GET', r'/v3/snapshots/status/(\d+)', 'get_status'),
        ('POST', r'/v3/snapshots/(\d+)/lock', 'lock'),
        ('GET', r'/v3/snapshots/(\d+)/unlock-challenge', 'unlock_challenge'),
        ('POST', r'/v3/snapshots/(\d+)/unlock', 'unlock'),
    )
]
OPERATIONS = {operation for _, _, operation in ROUTES}
# An operation that has more than one path has one name for faults and for the request log.
OPERATION_NAMES = {'key_usage_unpaged': 'key_usage'}

STATUS_FILTERS = {
    'api_snapshots_exclude_in_delete': lambda snapshot: not snapshot['in_delete'],
    'api_snapshots_exclude_not_in_delete': lambda snapshot: snapshot['in_delete'],
    'api_snapshots_exclude_locked': lambda snapshot: snapshot['lock_key'] is None,
    'api_snapshots_exclude_not_locked': lambda snapshot: snapshot['lock_key'] is not None,
}

FAULT_KINDS = {
    'drop_before',
    'drop_after',
    'stale',
    *(
        kind + suffix
        for kind in ('status', 'slow', 'not_json', 'truncated', 'cut', 'empty', 'html_502')
        for suffix in ('', '_after')
    ),
}
STALE_OPERATIONS = ('replace_key', 'unlock')

ERROR_CLASSES = {
    400: 'invalid_request_error',
    401: 'http_unauthorized_error',
    403: 'http_forbidden_error',
    404: 'fs_no_such_entry_error',
    409: 'fs_entry_exists_error',
    500: 'http_internal_server_error',
    503: 'http_service_unavailable_error',
}

BAD_GATEWAY_PAGE = (
    '<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n'
    '<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n'
)


class Refused(Exception):
    """A request that Core answers with an error."""

    def __init__(self, status, description, error_class=None, inner=None):
        super().__init__(description)
        self.status = status
        self.description = description
        self.error_class = error_class or ERROR_CLASSES.get(status, 'unknown_error')
        self.inner = inner

    def body(self):
        error = {
            'module': 'simulated_core',
            'error_class': self.error_class,
            'description': self.description,
            'stack': [],
            'user_visible': True,
        }
        if self.inner is not None:
            error['inner'] = self.inner
        return error


def decode_base64(text, what):
    """The bytes of strict Base64: one line, padded, nothing but its alphabet."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f'The {what} is not valid Base64.') from None
    if not data or base64.b64encode(data).decode() != text:
        raise Refused(400, f'The {what} is not valid Base64.')
    return data


def load_public_key(text, what):
    """The P-256 key of a Base64 SubjectPublicKeyInfo."""
    data = decode_base64(text, what)
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise Refused(400, f'The {what} is not a DER SubjectPublicKeyInfo.') from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != 'secp256r1':
        raise Refused(400, f'The {what} is not an ECDSA P-256 key.')
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != data:
        raise Refused(400, f'The {what} is not an uncompressed point on a named curve.')
    return key


def verify(public_key, signature, challenge, what):
    """Refuse unless `signature` is the key's ECDSA/SHA-256 signature over the challenge."""
    data = decode_base64(signature, what)
    try:
        decode_dss_signature(data)
    except ValueError:
        raise Refused(400, f'The {what} is not an ASN.1 DER ECDSA signature.') from None
    try:
        public_key.verify(data, challenge.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(400, f'The {what} does not match the challenge.') from None


def text_field(body, name, default=None):
    """A string of a request's body."""
    value = body.get(name, default) if isinstance(body, dict) else None
    if not isinstance(value, str):
        raise Refused(400, f'Expected a string in the field {name}.')
    return value


def number_parameter(query, name):
    """A number of a request's query, None when it has none."""
    value = query.get(name)
    if value is not None and not re.fullmatch('[0-9]+', value):
        raise Refused(400, f'Expected a number in the parameter {name}.')
    return None if value is None else int(value)


class Store:
    """What the cluster holds. The methods named like operations carry a request out.

    Each takes the reference in the path, the query and the body, and returns what is answered as
    JSON, or None for an empty reply.
    """

    def __init__(self):
        self.keys = {}
        self.snapshots = {}
        self.next_key_id = 1
        self.challenge_text = None
        self.page_limit = None
        self.stale_count = 0

    # Keys

    def list_keys(self, _ref, _query, _body):
        return {'entries': [self.key_reply(key) for key in self.keys.values()]}

    def get_key(self, ref, _query, _body):
        return self.key_reply(self.find_key(ref))

    def add_key(self, _ref, _query, body):
        name = text_field(body, 'name')
        public_key = text_field(body, 'public_key')
        signature = text_field(body, 'verification_signature')
        comment = text_field(body, 'comment', default='')
        self.check_name(name)
        key = load_public_key(public_key, 'public key')
        verify(key, signature, name, 'verification signature')
        return self.key_reply(
            self.store_key({'name': name, 'public_key': public_key, 'comment': comment})
        )

    def modify_key(self, ref, _query, body):
        key = self.find_key(ref)
        if not isinstance(body, dict):
            raise Refused(400, 'Expected a JSON object.')
        changes = dict(body)
        if 'disabled' in changes and not isinstance(changes['disabled'], bool):
            raise Refused(400, 'Expected a boolean in the field disabled.')
        for field in changes.keys() - {'disabled'}:
            text_field(changes, field)
        return self.key_reply(self.change_key(key, changes))

    def delete_key(self, ref, _query, _body):
        key = self.find_key(ref)
        if self.locked_with(key):
            raise Refused(400, f'The key {key["name"]} is in use.')
        del self.keys[key['id']]

    def key_usage(self, ref, query, _body):
        key = self.find_key(ref)
        usages = [
            {'type': 'snapshot', 'id': str(snapshot['id'])} for snapshot in self.locked_with(key)
        ]
        start = number_parameter(query, 'after') or 0
        limits = [self.page_limit, number_parameter(query, 'limit')]
        limit = min((limit for limit in limits if limit is not None), default=len(usages))
        end = start + limit
        next_page = ''
        if end < len(usages):
            next_page = f'{KEYS}{key["id"]}/usages?after={end}&limit={limit}'
        return {'usages': usages[start:end], 'paging': {'next': next_page}}

    def key_usage_unpaged(self, ref, _query, _body):
        snapshots = self.locked_with(self.find_key(ref))
        return {
            'snapshots': [str(snapshot['id']) for snapshot in snapshots],
            'snapshot_policies': [],
        }

    def replace_challenge(self, ref, _query, _body):
        return {'challenge': self.replacement_challenge_of(self.find_key(ref))}

    def replace_key(self, ref, _query, body):
        key = self.find_key(ref)
        replacement = text_field(body, 'replacement_key')
        old_signature = text_field(body, 'old_key_verification_signature')
        new_signature = text_field(body, 'replacement_key_verification_signature')
        challenge = self.replacement_challenge_of(key)
        old_key = load_public_key(key['public_key'], 'stored public key')
        new_key = load_public_key(replacement, 'replacement public key')
        verify(old_key, old_signature, challenge, 'old key verification signature')
        verify(new_key, new_signature, challenge, 'replacement key verification signature')
        key['public_key'] = replacement
        key['version'] += 1
        return self.key_reply(key)

    # Snapshots

    def list_statuses(self, _ref, query, _body):
        filters = [name for name in query.get('filter', '').split(',') if name]
        for name in filters:
            if name not in STATUS_FILTERS:
                raise Refused(400, f'Unknown filter {name}.')
        return {
            'entries': [
                snapshot
                for snapshot in self.snapshots.values()
                if all(STATUS_FILTERS[name](snapshot) for name in filters)
            ]
        }

    def get_status(self, ref, _query, _body):
        return self.find_snapshot(ref)

    def lock(self, ref, _query, body):
        snapshot = self.find_snapshot(ref)
        key = self.find_key(text_field(body, 'lock_key_ref'))
        if key['disabled']:
            raise Refused(400, f'The key {key["name"]} is disabled.')
        if snapshot['lock_key'] is not None:
            raise Refused(400, f'Snapshot {snapshot["id"]} is already locked.')
        snapshot['lock_key'] = key['id']

    def unlock_challenge(self, ref, _query, _body):
        return {'challenge': self.unlock_challenge_of(self.find_snapshot(ref))}

    def unlock(self, ref, _query, body):
        snapshot = self.find_snapshot(ref)
        signature = text_field(body, 'signature')
        challenge = self.unlock_challenge_of(snapshot)
        key = self.find_key(snapshot['lock_key'])
        public_key = load_public_key(key['public_key'], 'stored public key')
        verify(public_key, signature, challenge, 'signature')
        snapshot['lock_key'] = None

    # What the requests above and the commands of the test have in common

    def store_key(self, fields):
        key = {
            'id': str(fields.get('id', self.next_key_id)),
            'name': fields['name'],
            'comment': fields.get('comment', ''),
            'disabled': fields.get('disabled', False),
            'public_key': fields['public_key'],
            'version': 1,
        }
        self.check_name(key['name'])
        if key['id'] in self.keys:
            raise Refused(409, f'A key with the identifier {key["id"]} exists.')
        self.keys[key['id']] = key
        self.next_key_id = max(self.next_key_id, int(key['id'])) + 1
        return key

    def change_key(self, key, changes):
        unknown = changes.keys() - {'name', 'comment', 'disabled'}
        if unknown:
            raise Refused(400, f'A key has no field {", ".join(sorted(unknown))} to change.')
        if 'name' in changes:
            self.check_name(changes['name'], besides=key)
        key.update(changes)
        key['version'] += 1
        return key

    def store_snapshot(self, fields):
        snapshot_id = int(fields['id'])
        snapshot = {
            'id': snapshot_id,
            'name': f'{snapshot_id}_snapshot',
            'timestamp': '2026-01-01T00:00:00Z',
            'expiration': '',
            'policy_id': None,
            'policy_name': None,
            'source_file_id': '2',
            'source_file_path': '/',
            'owners': [],
            'in_delete': False,
            'lock_key': None,
        }
        if snapshot_id in self.snapshots:
            raise Refused(409, f'Snapshot {snapshot_id} exists.')
        self.change_snapshot(snapshot, {**fields, 'id': snapshot_id})
        self.snapshots[snapshot_id] = snapshot
        return snapshot

    def change_snapshot(self, snapshot, changes):
        unknown = changes.keys() - snapshot.keys()
        if unknown:
            raise Refused(400, f'A snapshot has no field {", ".join(sorted(unknown))}.')
        snapshot.update(changes)
        if snapshot['lock_key'] is not None:
            snapshot['lock_key'] = self.find_key(str(snapshot['lock_key']))['id']
        return snapshot

    def make_stale(self, operation, ref):
        """Change what the challenge of a submission is about, as another administrator might."""
        self.stale_count += 1
        if operation == 'replace_key':
            self.find_key(ref)['version'] += 1
        else:
            day = datetime.date(2030, 1, 1) + datetime.timedelta(days=self.stale_count)
            self.find_snapshot(ref)['expiration'] = f'{day}T00:00:00Z'

    def check_name(self, name, besides=None):
        if not name or name.isdigit():
            raise Refused(400, 'A key name must not be empty and must not contain only numbers.')
        if any(key['name'] == name for key in self.keys.values() if key is not besides):
            raise Refused(409, f'A key with the name {name} exists.')

    def find_key(self, ref):
        key = self.keys.get(ref) or next(
            (key for key in self.keys.values() if key['name'] == ref), None
        )
        if key is None:
            raise Refused(404, f'There is no key {ref}.')
        return key

    def find_snapshot(self, ref):
        snapshot = self.snapshots.get(int(ref))
        if snapshot is None:
            raise Refused(404, f'There is no snapshot {ref}.')
        return snapshot

    def locked_with(self, key):
        return [
            snapshot for snapshot in self.snapshots.values() if snapshot['lock_key'] == key['id']
        ]

    def key_reply(self, key):
        return {field: value for field, value in key.items() if field != 'version'}

    def replacement_challenge_of(self, key):
        if self.challenge_text is not None:
            return self.challenge_text
        return (
            f'Replace key {key["id"]} version {key["version"]}, '
            f'name "{key["name"]}", comment "{key["comment"]}"'
        )

    def unlock_challenge_of(self, snapshot):
        if snapshot['lock_key'] is None:
            raise Refused(400, f'Snapshot {snapshot["id"]} is not locked.')
        if self.challenge_text is not None:
            return self.challenge_text
        return (
            f'Unlock snapshot {snapshot["id"]} locked with key {snapshot["lock_key"]}, '
            f'expiration "{snapshot["expiration"]}"'
        )


class Answer:
    """A status and a body.

    `dropped`: the connection closes without either. `cut`: it closes halfway through the body.
    """

    def __init__(self, status, body=b'', content_type='application/json', dropped=False, cut=False):
        self.status = status
        self.body = body
        self.content_type = content_type
        self.dropped = dropped
        self.cut = cut

    @classmethod
    def json(cls, status, value):
        return cls(status, json.dumps(value, ensure_ascii=False).encode())

    @classmethod
    def refused(cls, error):
        return cls.json(error.status, error.body())


class Core:
    """The store, the faults and the log of requests, shared by all connections."""

    def __init__(self, token):
        self.token = token
        self.store = Store()
        self.faults = []
        self.requests = []
        self.lock = threading.Lock()

    def answer(self, method, target, authorization, data):
        """What to say to one request."""
        path, _, query_text = target.partition('?')
        query = dict(urllib.parse.parse_qsl(query_text))
        action, ref = route(method, path)
        operation = OPERATION_NAMES.get(action, action)
        try:
            body = json.loads(data) if data else None
        except ValueError:
            body = data.decode(errors='replace')
        entry = {
            'method': method,
            'path': target,
            'operation': operation,
            'body': body,
            'status': None,
        }
        with self.lock:
            self.requests.append(entry)
            fault = self.take_fault(operation, ref)

        def carry_out(store):
            if authorization != f'Bearer {self.token}':
                raise Refused(401, 'Need to log in first to establish credentials.')
            if action is None:
                raise Refused(404, f'No such resource: {path}', 'http_not_found_error')
            return getattr(store, action)(ref, query, body)

        answer = self.answer_with(fault, operation, ref, carry_out)
        if not answer.dropped:
            with self.lock:
                entry['status'] = answer.status
        return answer

    def answer_with(self, fault, operation, ref, carry_out):
        """Carry a request out, or seem to, and bend the answer as the fault wants it."""
        if fault is None:
            return self.run(carry_out)
        kind = fault['kind']
        after = kind.endswith('_after')
        kind = re.sub('_(before|after)$', '', kind)
        if kind == 'stale':
            with self.lock:
                self.store.make_stale(operation, ref)
            return self.run(carry_out)
        if kind == 'slow':
            if after:
                answer = self.run(carry_out)
                time.sleep(fault['seconds'])
                return answer
            time.sleep(fault['seconds'])
            return self.run(carry_out)

        answer = self.run(carry_out, rehearsal=not after)
        if kind == 'drop':
            return Answer(None, dropped=True)
        if kind == 'status':
            status = fault['status']
            description = fault.get('description', f'Simulated failure {status}.')
            return Answer.refused(
                Refused(status, description, fault.get('error_class'), fault.get('inner'))
            )
        if kind == 'not_json':
            return Answer(200, b'This is not JSON.\n', 'text/plain')
        if kind == 'truncated':
            return Answer(200, answer.body[: len(answer.body) // 2] or b'{')
        if kind == 'cut':
            return Answer(200, answer.body or b'{}', cut=True)
        if kind == 'empty':
            return Answer(fault.get('status', 200))
        return Answer(502, BAD_GATEWAY_PAGE.encode(), 'text/html')

    def run(self, carry_out, rehearsal=False):
        """Carry a request out; a rehearsal finds the same answer and leaves the store alone."""
        with self.lock:
            try:
                result = carry_out(copy.deepcopy(self.store) if rehearsal else self.store)
            except Refused as error:
                return Answer.refused(error)
            return Answer(200) if result is None else Answer.json(200, result)

    def take_fault(self, operation, ref):
        """The fault that this request meets, if any; one use of it is spent."""
        for fault in self.faults:
            if fault['on'] == operation and fault.get('id') in (None, ref):
                if fault['times'] == 1:
                    self.faults.remove(fault)
                elif fault['times'] > 1:
                    fault['times'] -= 1
                return fault
        return None

    def command(self, command):
        """Carry out one command of the test, with the lock held."""
        arguments = dict(command)
        operation = arguments.pop('op')
        store = self.store
        if operation == 'state':
            return {
                'keys': list(store.keys.values()),
                'snapshots': list(store.snapshots.values()),
            }
        if operation == 'add_key':
            return store.store_key(arguments['key'])
        if operation == 'modify_key':
            return store.change_key(store.find_key(str(arguments.pop('id'))), arguments)
        if operation == 'add_snapshot':
            return store.store_snapshot(arguments['snapshot'])
        if operation == 'modify_snapshot':
            return store.change_snapshot(store.find_snapshot(arguments.pop('id')), arguments)
        if operation == 'challenge_text':
            store.challenge_text = arguments['text']
        elif operation == 'page_limit':
            store.page_limit = arguments['limit']
        elif operation == 'fault':
            self.faults.append(checked_fault(arguments))
        elif operation == 'clear_faults':
            self.faults.clear()
        elif operation == 'requests':
            return self.requests
        elif operation == 'clear_requests':
            # A new list: requests under way still hold entries of the old one.
            self.requests = []
        else:
            raise ValueError(f'unknown op {operation}')
        return {}


def route(method, path):
    """The operation that a request asks for, and the key reference or snapshot id in its path."""
    for route_method, pattern, operation in ROUTES:
        match = pattern.fullmatch(path)
        if match and route_method == method:
            return operation, urllib.parse.unquote(match[1]) if match.groups() else None
    return None, None


def checked_fault(fault):
    """A fault with its defaults, or ValueError: a misspelt one would make a test pass idly."""
    operation, kind = fault['on'], fault['kind']
    if operation not in OPERATIONS or operation in OPERATION_NAMES:
        raise ValueError(f'unknown operation {operation}')
    if kind not in FAULT_KINDS:
        raise ValueError(f'unknown kind {kind}')
    if kind == 'stale' and operation not in STALE_OPERATIONS:
        raise ValueError(f'{operation} has no challenge that could go stale')
    if kind.startswith('status') and 'status' not in fault:
        raise ValueError(f'{kind} needs a status')
    if kind.startswith('slow') and 'seconds' not in fault:
        raise ValueError(f'{kind} needs seconds')
    checked = {'times': 1, **fault}
    if 'id' in checked:
        checked['id'] = str(checked['id'])
    return checked


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = 'HTTP/1.1'
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True

    def setup(self):
        self.request.do_handshake()
        super().setup()

    def handle_request(self):
        data = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        authorization = self.headers.get('Authorization')
        answer = self.server.core.answer(self.command, self.path, authorization, data)
        if not answer.dropped:
            self.send_response(answer.status)
            self.send_header('Content-Type', answer.content_type)
            self.send_header('Content-Length', str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
            self.wfile.flush()
        if answer.dropped or answer.cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_request

    def log_message(self, *_):
        """Say nothing: the test asks for `requests` when it wants to know."""


class Server(socketserver.ThreadingTCPServer):
    """The listener: TLS on 127.0.0.1, one thread a connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port, core):
        super().__init__(('127.0.0.1', port), Handler)
        self.core = core
        self.tls = server_context()

    def get_request(self):
        connection, address = super().get_request()
        # The handshake is left to the connection's own thread: no client holds up the others.
        return (
            self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False),
            address,
        )

    def handle_error(self, request, client_address):
        # A client that went away is what many tests are about.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def server_context():
    """TLS with a certificate made for this run, signed by its own key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'simulated-core')])
    now = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        pem = Path(directory, 'server.pem')
        pem.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context.load_cert_chain(pem)
    return context


def reply_to(core, line):
    """The line of standard output that answers a line of standard input."""
    # The lock covers the writing too: what a command returns is the store itself, no copy of it.
    with core.lock:
        try:
            reply = core.command(json.loads(line))
        except Refused as error:
            reply = {'error': error.description}
        except (KeyError, TypeError, ValueError) as error:
            reply = {'error': f'{type(error).__name__}: {error}'}
        return json.dumps(reply)


def main():
    parser = argparse.ArgumentParser(description='A simulated Qumulo Core.')
    parser.add_argument('--port', type=int, default=0)
    parser.add_argument('--token', default='test-token')
    arguments = parser.parse_args()

    core = Core(arguments.token)
    server = Server(arguments.port, core)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    print(json.dumps({'port': server.server_address[1]}), flush=True)
    for line in sys.stdin.buffer:
        print(reply_to(core, line), flush=True)


if __name__ == '__main__':
    main()
