"""A simulated Qumulo Core: the key store and snapshot locks of its REST API, over TLS on loopback.

    python core.py [--port 0] [--bind 127.0.0.1] [--token TOKEN] [--certificate KIND] [--tls V]

prints one JSON line `{"port": N, "ca": PEM, "fingerprint": "sha256:HEX"}` once it listens: the
certificate that clients are to trust, and the SHA-256 of the server's own certificate in DER. From
then on every line of standard input is a JSON command, answered by one JSON line on standard
output; the end of standard input ends the program, so it never outlives the test that started it.

Certificates
    All are made for the run; certificates.py lists the kinds. `ca` is the issuer's, or the
    certificate itself when it is its own.

    `--tls 1.1`, `1.2` or `1.3` offers that version alone.

Commands
    {"op": "state"}                             keys (with their version) and snapshots
    {"op": "add_key", "key": {...}}             store a key without any proof; the stored key
    {"op": "modify_key", "id": "1", ...}        change name, comment or disabled; the key
    {"op": "add_snapshot", "snapshot": {...}}   store a snapshot; the snapshot
    {"op": "modify_snapshot", "id": 7, ...}     change any of its fields; the snapshot
    {"op": "challenge_text", "text": T}         T is every challenge; null: the usual ones
    {"op": "page_limit", "limit": N, ...}       key usages come N to a page; null: on one page.
                                                "keys": true: the list of keys too, which has no
                                                pages otherwise. "next" is how the next page is
                                                named: "path" (the default), "absolute" (a URL with
                                                the request's Host), "elsewhere" (a URL on another
                                                host), "loop" (the same page again and again),
                                                "cycle" (the first page after the second)
    {"op": "fault", "on": OPERATION, "kind": KIND, ...}
    {"op": "clear_faults"}
    {"op": "carry_out_late"}                    carry out what faults with "late" have held back
    {"op": "requests"}                          what came in: method, path, host, connection (their
                                                number, from 1), operation, body, status (null for
                                                an answer never given)
    {"op": "connections"}                       {"opened": N, "most_at_a_time": M}: TCP connections
                                                so far; requests that were being answered at the
                                                same moment, at most
    {"op": "clear_requests"}                    forget the requests and the most at a time
    {"op": "reset"}                             start over, as if the program had just started, with
                                                the same certificate
    {"op": "clock"}                             {"processor_seconds": S} that this program has used
    {"op": "tls", "certificate": KIND, ...}     show this certificate from now on; "version" is the
                                                only TLS version, "protocols" are offered by ALPN,
                                                "client_certificate" true demands one. Answers with
                                                "ca", "fingerprint", "ca_fingerprint" and
                                                "server_pem": the private key and the chain

A command that cannot be carried out is answered by {"error": TEXT}.

Faults
    `on` is an operation of ROUTES. `times` says how often (default 1, 0 is always); `id`, when
    given, narrows the fault to one snapshot id or key reference. Faults of one operation queue up:
    the second takes over once the first is used up. A kind that ends in `_after` carries the
    request out first; the others leave no trace. Any of these others takes "late": true, and then
    the request is held back and carried out by `carry_out_late`.

    drop_before, drop_after         close the connection without an answer
    status, status_after            answer "status" (and "error_class", "description", "inner"),
                                    with a "retry_after" in a header of that name, if given
    slow, slow_after                wait "seconds" before, or after, carrying out; then answer
    not_json, not_json_after        answer 200 with text that is no JSON
    truncated, truncated_after      answer 200 with the first half of the JSON
    cut, cut_after                  close the connection in the middle of the answer's body
    empty, empty_after              answer "status" (200) with no body
    html_502, html_502_after        answer 502 with a proxy's HTML page
    redirect, redirect_after        answer "status" (307) with the header Location: "location"
    edited, edited_after            answer with the JSON, but for the fields in "set"
    huge, huge_after                answer 200 with the JSON after "mib" (9) MiB of blanks; with
                                    "chunked": true, without saying beforehand how long it is

    These carry the request out and answer it:

    chunked                         the body comes in several chunks (Transfer-Encoding: chunked)
    without                         the "field" is missing, wherever the JSON has it
    drip                            the body comes byte by byte, "seconds" apart
    with_extra                      every object of the JSON has fields that nobody has heard of
    close_after_answer              the connection closes, which the answer does not announce
    last_answer                     likewise, and the answer does (Connection: close)
    repeated                        the answer comes twice
    repeated_later                  likewise, the second time just before the next answer on the
                                    connection, as if it had been on its way
    unasked_408, unasked_408_later  likewise, with a 408 in place of the second
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
import functools
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
import warnings

from http import HTTPStatus

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from certificates import KINDS, Certificate

KEYS = '/v1/file-system/security/keys/'
# Method, path, operation. The one group of a path is the key reference or the snapshot id.
ROUTES = (
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
OPERATIONS = {operation for _, _, operation in ROUTES}
# An operation that has more than one path has one name for faults and for the request log.
OPERATION_NAMES = {'key_usage_unpaged': 'key_usage'}

STATUS_FILTERS = {
    'api_snapshots_exclude_in_delete': lambda snapshot: not snapshot['in_delete'],
    'api_snapshots_exclude_not_in_delete': lambda snapshot: snapshot['in_delete'],
    'api_snapshots_exclude_locked': lambda snapshot: snapshot['lock_key'] is None,
    'api_snapshots_exclude_not_locked': lambda snapshot: snapshot['lock_key'] is not None,
}

# What kinds of faults need, and what else they take.
FAULTS_BEFORE_OR_AFTER = {
    'status': ({'status'}, {'error_class', 'description', 'inner', 'retry_after'}),
    'slow': ({'seconds'}, set()),
    'not_json': (set(), set()),
    'truncated': (set(), set()),
    'cut': (set(), set()),
    'empty': (set(), {'status'}),
    'edited': ({'set'}, set()),
    'html_502': (set(), set()),
    'redirect': ({'location'}, {'status'}),
    'huge': (set(), {'mib', 'chunked'}),
}
FAULTS = {
    **FAULTS_BEFORE_OR_AFTER,
    **{f'{kind}_after': takes for kind, takes in FAULTS_BEFORE_OR_AFTER.items()},
    'drop_before': (set(), set()),
    'drop_after': (set(), set()),
    'chunked': (set(), set()),
    'drip': ({'seconds'}, set()),
    'without': ({'field'}, set()),
    'with_extra': (set(), set()),
    'close_after_answer': (set(), set()),
    'last_answer': (set(), set()),
    'repeated': (set(), set()),
    'repeated_later': (set(), set()),
    'unasked_408': (set(), set()),
    'unasked_408_later': (set(), set()),
    'stale': (set(), set()),
}
UNASKED = {'repeated', 'repeated_later', 'unasked_408', 'unasked_408_later'}
CARRIED_OUT = UNASKED | {
    'chunked',
    'drip',
    'without',
    'with_extra',
    'close_after_answer',
    'last_answer',
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


NEXT_PAGES = {
    'path': lambda page, target, host: page,
    'absolute': lambda page, target, host: f'https://{host}{page}',
    'elsewhere': lambda page, target, host: f'https://elsewhere.invalid:8000{page}',
    'loop': lambda page, target, host: target,
    'cycle': lambda page, target, host: target.split('?')[0] if '?' in target else page,
}

TLS_VERSIONS = {
    '1.1': ssl.TLSVersion.TLSv1_1,
    '1.2': ssl.TLSVersion.TLSv1_2,
    '1.3': ssl.TLSVersion.TLSv1_3,
}

REASONS = {status.value: status.phrase for status in HTTPStatus}
MOST_HEAD = 64 * 1024
MOST_AT_ONCE = 64 * 1024

encode_json = json.JSONEncoder(ensure_ascii=False).encode


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


@functools.lru_cache(maxsize=1024)
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
        self.pages_of_keys = False
        self.stale_count = 0

    # Keys

    def list_keys(self, _ref, query, _body):
        entries = [self.key_reply(key) for key in self.keys.values()]
        if not self.pages_of_keys:
            return {'entries': entries}
        return self.page(KEYS, 'entries', entries, query)

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
        return self.page(f'{KEYS}{key["id"]}/usages', 'usages', usages, query)

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

    def page(self, path, field, entries, query):
        """One page of the entries, and the path of the next."""
        start = number_parameter(query, 'after') or 0
        limits = [self.page_limit, number_parameter(query, 'limit')]
        limit = min((limit for limit in limits if limit is not None), default=len(entries))
        end = start + limit
        more = end < len(entries)
        return {
            field: entries[start:end],
            'paging': {'next': f'{path}?after={end}&limit={limit}' if more else ''},
        }

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


class Request:
    """What came in."""

    def __init__(self, connection, method, target, headers, data):
        self.connection = connection
        self.method = method
        self.target = target
        self.headers = headers
        self.data = data


class Answer:
    """A status and a body.

    `headers` are lines of their own; `chunked`: the body comes in chunks; `drip`: the seconds
    between two bytes of it; `unasked`: an answer that nobody has asked for follows, `later`: just
    before the next one. `end` says what becomes of the connection: None keeps it, 'closed' closes it after the answer, 'cut' halfway through the
    body, 'dropped' without an answer.
    """

    def __init__(self, status, body=b'', content_type='application/json', headers='', end=None):
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.end = end
        self.chunked = False
        self.drip = None
        self.unasked = None
        self.later = False

    @classmethod
    def json(cls, status, value):
        return cls(status, encode_json(value).encode())

    @classmethod
    def refused(cls, error):
        return cls.json(error.status, error.body())

    def head(self):
        framing = f'Content-Length: {len(self.body)}'
        if self.chunked:
            framing = 'Transfer-Encoding: chunked'
        return (
            f'HTTP/1.1 {self.status} {REASONS.get(self.status, "Unknown")}\r\n'
            f'Content-Type: {self.content_type}\r\n{self.headers}{framing}\r\n\r\n'
        ).encode('latin-1')


class Core:
    """The store, the faults and the log of requests, shared by all connections."""

    def __init__(self, token):
        self.token = token
        self.store = Store()
        self.next_page = NEXT_PAGES['path']
        self.faults = []
        self.held_back = []
        self.requests = []
        self.connections = 0
        self.under_way = 0
        self.most_at_a_time = 0
        self.lock = threading.Lock()
        # The listener, once there is one.
        self.server = None

    def number_connection(self):
        with self.lock:
            self.connections += 1
            return self.connections

    def answer(self, request):
        """What to say to one request."""
        target = request.target
        path, _, query_text = target.partition('?')
        query = dict(urllib.parse.parse_qsl(query_text)) if query_text else {}
        action, ref = route(request.method, path)
        operation = OPERATION_NAMES.get(action, action)
        host = request.headers.get('host')
        try:
            body = json.loads(request.data) if request.data else None
        except ValueError:
            body = request.data.decode(errors='replace')
        entry = {
            'method': request.method,
            'path': target,
            'host': host,
            'connection': request.connection,
            'operation': operation,
            'body': body,
            'status': None,
        }
        with self.lock:
            self.requests.append(entry)
            self.under_way += 1
            self.most_at_a_time = max(self.most_at_a_time, self.under_way)
            fault = self.take_fault(operation, ref)

        def carry_out(store):
            if request.headers.get('authorization') != f'Bearer {self.token}':
                raise Refused(401, 'Need to log in first to establish credentials.')
            if action is None:
                raise Refused(404, f'No such resource: {path}', 'http_not_found_error')
            result = getattr(store, action)(ref, query, body)
            if result and 'paging' in result:
                self.name_next_page(result['paging'], target, host)
            return result

        try:
            answer = self.answer_with(fault, operation, ref, carry_out)
        finally:
            with self.lock:
                self.under_way -= 1
        if answer.end != 'dropped':
            entry['status'] = answer.status
        return answer

    def name_next_page(self, paging, target, host):
        if paging['next']:
            paging['next'] = self.next_page(paging['next'], target, host)

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

        answer = self.run(carry_out, rehearsal=not (after or kind in CARRIED_OUT))
        if fault.get('late'):
            with self.lock:
                self.held_back.append(carry_out)
        if kind in UNASKED:
            answer.unasked = copy.copy(answer) if 'repeated' in kind else Answer(408)
            answer.later = kind.endswith('later')
            return answer
        if kind == 'edited':
            value = {**json.loads(answer.body), **fault['set']}
            return Answer.json(answer.status, value)
        if kind == 'drop':
            return Answer(None, end='dropped')
        if kind == 'status':
            status = fault['status']
            description = fault.get('description', f'Simulated failure {status}.')
            answer = Answer.refused(
                Refused(status, description, fault.get('error_class'), fault.get('inner'))
            )
            if 'retry_after' in fault:
                answer.headers = f'Retry-After: {fault["retry_after"]}\r\n'
            return answer
        if kind == 'not_json':
            return Answer(200, b'This is not JSON.\n', 'text/plain')
        if kind == 'truncated':
            return Answer(200, answer.body[: len(answer.body) // 2] or b'{')
        if kind == 'cut':
            return Answer(200, answer.body or b'{}', end='cut')
        if kind == 'empty':
            return Answer(fault.get('status', 200))
        if kind == 'redirect':
            location = f'Location: {fault["location"]}\r\n'
            return Answer(fault.get('status', 307), headers=location)
        if kind == 'huge':
            answer = Answer(200, b' ' * int(fault.get('mib', 9) * 2**20) + (answer.body or b'{}'))
            answer.chunked = fault.get('chunked', False)
            return answer
        if kind == 'chunked':
            answer.chunked = True
            return answer
        if kind == 'drip':
            answer.drip = fault['seconds']
            return answer
        if kind in ('close_after_answer', 'last_answer'):
            answer.headers += 'Connection: close\r\n' if kind == 'last_answer' else ''
            answer.end = 'closed'
            return answer
        if kind in ('without', 'with_extra'):
            if answer.body:
                value = json.loads(answer.body)
                value = without(fault['field'], value) if kind == 'without' else extended(value)
                answer.body = encode_json(value).encode()
            return answer
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
            next_page = arguments.get('next', 'path')
            if next_page not in NEXT_PAGES:
                raise ValueError(f'unknown next {next_page}')
            self.next_page = NEXT_PAGES[next_page]
            store.pages_of_keys = arguments.get('keys', False)
            store.page_limit = arguments['limit']
        elif operation == 'fault':
            self.faults.append(checked_fault(arguments))
        elif operation == 'clear_faults':
            self.faults.clear()
        elif operation == 'carry_out_late':
            for carry_out in self.held_back:
                carry_out(store)
            self.held_back.clear()
        elif operation == 'requests':
            return self.requests
        elif operation == 'clear_requests':
            # A new list: requests under way still hold entries of the old one.
            self.requests = []
            self.most_at_a_time = self.under_way
        elif operation == 'connections':
            return {'opened': self.connections, 'most_at_a_time': self.most_at_a_time}
        elif operation == 'reset':
            # Requests under way stay with the old Core.
            core = Core(self.token)
            core.server = self.server
            self.server.core = core
        elif operation == 'clock':
            return {'processor_seconds': time.process_time()}
        elif operation == 'tls':
            certificate = Certificate(arguments.pop('certificate', 'signed'))
            self.server.tls = server_context(certificate, **arguments)
            return {
                'ca': certificate.trusted_pem(),
                'fingerprint': certificate.fingerprint(),
                'ca_fingerprint': certificate.trusted_fingerprint(),
                'server_pem': certificate.server_pem(),
            }
        else:
            raise ValueError(f'unknown op {operation}')
        return {}


def route_patterns():
    """One pattern for all paths of a method, whose groups are named like the operations."""
    patterns = {}
    for method, path, operation in ROUTES:
        group = f'(?P<{operation}>'
        path = path.replace('(', group) if '(' in path else f'{path}{group})'
        patterns.setdefault(method, []).append(path)
    return {method: re.compile('|'.join(paths)) for method, paths in patterns.items()}


ROUTE_PATTERNS = route_patterns()


def route(method, path):
    """The operation that a request asks for, and the key reference or snapshot id in its path."""
    match = ROUTE_PATTERNS[method].fullmatch(path)
    if match is None:
        return None, None
    operation = match.lastgroup
    return operation, urllib.parse.unquote(match[operation]) or None


def without(field, value):
    """The JSON value without the field, wherever it is."""
    if isinstance(value, list):
        return [without(field, entry) for entry in value]
    if isinstance(value, dict):
        return {name: without(field, entry) for name, entry in value.items() if name != field}
    return value


def extended(value):
    """The JSON value with unknown fields in every object, before and after those it has."""
    if isinstance(value, list):
        return [extended(entry) for entry in value]
    if isinstance(value, dict):
        fields = {name: extended(entry) for name, entry in value.items()}
        return {'a_new_field': {'id': [None, 1.5]}, **fields, 'another_new_field': 'text'}
    return value


def checked_fault(fault):
    """A fault with its defaults, or ValueError: a misspelt one would make a test pass idly."""
    operation, kind = fault['on'], fault['kind']
    if operation not in OPERATIONS or operation in OPERATION_NAMES:
        raise ValueError(f'unknown operation {operation}')
    if kind not in FAULTS:
        raise ValueError(f'unknown kind {kind}')
    if kind == 'stale' and operation not in STALE_OPERATIONS:
        raise ValueError(f'{operation} has no challenge that could go stale')
    needs, takes = FAULTS[kind]
    missing = needs - fault.keys()
    if missing:
        raise ValueError(f'{kind} needs {", ".join(sorted(missing))}')
    if kind in FAULTS_BEFORE_OR_AFTER or kind == 'drop_before':
        takes = takes | {'late'}
    unknown = fault.keys() - needs - takes - {'on', 'kind', 'times', 'id'}
    if unknown:
        raise ValueError(f'{kind} does not take {", ".join(sorted(unknown))}')
    checked = {'times': 1, **fault}
    if 'id' in checked:
        checked['id'] = str(checked['id'])
    return checked


class Unreadable(Exception):
    """Bytes that are no request, or one that this server does not do; the status to say so."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class Handler(socketserver.BaseRequestHandler):
    """One connection: as much of HTTP/1.1 as the clients of a REST API use, and quick about it."""

    def setup(self):
        self.number = self.server.core.number_connection()
        # What has arrived and is not used yet.
        self.arrived = b''
        # An answer that nobody has asked for and that comes before the next one.
        self.owed = None
        # The handshake is left to the connection's own thread: no client holds up the others.
        self.request.do_handshake()

    def handle(self):
        try:
            while (request := self.read_request()) is not None:
                answer = self.server.core.answer(request)
                if not answer.end and request.headers.get('connection', '').lower() == 'close':
                    answer.headers += 'Connection: close\r\n'
                    answer.end = 'closed'
                if self.owed:
                    self.send(self.owed)
                self.send(answer)
                self.owed = answer.unasked if answer.later else None
                if answer.end:
                    break
        except Unreadable as error:
            self.send(Answer(error.status, headers='Connection: close\r\n', end='closed'))

    def read_request(self):
        """The next request, or None when the client has gone."""
        while (end := self.arrived.find(b'\r\n\r\n')) < 0:
            if len(self.arrived) > MOST_HEAD:
                raise Unreadable(431)
            if not self.read_more():
                return None
        first, *lines = self.arrived[:end].decode('latin-1').split('\r\n')
        words = first.split(' ')
        if len(words) != 3 or words[2] != 'HTTP/1.1' or not words[1].startswith('/'):
            raise Unreadable(400)
        if words[0] not in ROUTE_PATTERNS:
            raise Unreadable(501)
        headers = {}
        for line in lines:
            name, colon, value = line.partition(':')
            if not colon or not name or name != name.strip():
                raise Unreadable(400)
            headers[name.lower()] = value.strip()
        if 'transfer-encoding' in headers:
            raise Unreadable(411)
        length = headers.get('content-length', '0')
        if not (length.isascii() and length.isdigit()):
            raise Unreadable(400)

        start = end + len(b'\r\n\r\n')
        end = start + int(length)
        while len(self.arrived) < end:
            if not self.read_more():
                return None
        data, self.arrived = self.arrived[start:end], self.arrived[end:]
        return Request(self.number, words[0], words[1], headers, data)

    def read_more(self):
        more = self.request.recv(MOST_AT_ONCE)
        self.arrived += more
        return bool(more)

    def send(self, answer):
        if answer.end == 'dropped':
            self.request.shutdown(socket.SHUT_RDWR)
        elif answer.end == 'cut':
            self.request.sendall(answer.head() + answer.body[: len(answer.body) // 2])
            self.request.shutdown(socket.SHUT_RDWR)
        elif answer.drip is not None:
            self.request.sendall(answer.head())
            for byte in answer.body:
                self.request.sendall(bytes([byte]))
                time.sleep(answer.drip)
        elif answer.chunked:
            self.send_chunks(answer)
        else:
            self.request.sendall(answer.head() + answer.body)
        if answer.unasked and not answer.later:
            self.send(answer.unasked)
        if answer.end == 'closed':
            self.say_goodbye()

    def send_chunks(self, answer):
        """Send the body in at least three chunks, if it has as many bytes."""
        self.request.sendall(answer.head())
        size = max(1, min(len(answer.body) // 3, MOST_AT_ONCE))
        for start in range(0, len(answer.body), size):
            chunk = answer.body[start : start + size]
            self.request.sendall(b'%x\r\n%b\r\n' % (len(chunk), chunk))
        self.request.sendall(b'0\r\n\r\n')

    def say_goodbye(self):
        """End TLS as it should be ended, and wait for no answer to that."""
        self.request.setblocking(False)
        try:
            self.request.unwrap()
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    """The listener: TLS, one thread a connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address, core, tls):
        self.address_family = socket.AF_INET6 if ':' in address[0] else socket.AF_INET
        super().__init__(address, Handler)
        self.core = core
        core.server = self
        self.tls = tls

    def get_request(self):
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return (
            self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False),
            address,
        )

    def handle_error(self, request, client_address):
        # A client that went away is what many tests are about.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def server_context(certificate, version=None, protocols=(), client_certificate=False):
    """TLS with a certificate; of one version alone, if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Whether a weak key or an old version will do is for the client to say.
    context.set_ciphers('DEFAULT@SECLEVEL=0')
    if version is not None:
        with warnings.catch_warnings():
            # Python warns of versions as old as 1.1.
            warnings.simplefilter('ignore', DeprecationWarning)
            context.minimum_version = TLS_VERSIONS[version]
            context.maximum_version = TLS_VERSIONS[version]
    if protocols:
        context.set_alpn_protocols(protocols)
    if client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.NamedTemporaryFile('w') as pem:
        pem.write(certificate.server_pem())
        pem.flush()
        context.load_cert_chain(pem.name)
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
    parser.add_argument('--bind', metavar='ADDRESS', default='127.0.0.1')
    parser.add_argument('--token', default='test-token')
    parser.add_argument('--certificate', choices=KINDS, metavar='KIND', default='signed')
    parser.add_argument('--tls', choices=TLS_VERSIONS)
    arguments = parser.parse_args()

    core = Core(arguments.token)
    certificate = Certificate(arguments.certificate)
    tls = server_context(certificate, arguments.tls)
    server = Server((arguments.bind, arguments.port), core, tls)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    ready = {
        'port': server.server_address[1],
        'ca': certificate.trusted_pem(),
        'fingerprint': certificate.fingerprint(),
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin.buffer:
        print(reply_to(server.core, line), flush=True)


if __name__ == '__main__':
    main()
