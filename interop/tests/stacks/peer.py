"""A client and a server of aioquic for the cases of the interop tests.

    peer.py client ADDRESS PORT CA [CERTIFICATE KEY]
    peer.py server CA CERTIFICATE KEY

Prints one line "control PORT [UDP PORT]", then speaks lines of JSON with the first who connects to that port: takes
calls and tells outcomes (see call.rs), and tells what a server saw. Ends with that connection.
"""

import array
import asyncio
import hashlib
import json
import socket
import ssl
import sys

from aioquic import tls
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from cryptography import x509

# RFC 9114 section 7.2.8: 0x1f * N + 0x21.
RESERVED_FRAME = 0x1F * 7 + 0x21
RESERVED_STREAM = 0x1F * 5 + 0x21
# A first GOAWAY with this announces one that leaves out something (RFC 9114 section 5.2).
ALL_STREAMS = 2**62 - 4
# More than the window of any stream.
ENDLESS = 4 << 20


def pattern(length):
    words = array.array("Q", range((length + 7) // 8))
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()[:length]


class Http(H3Connection):
    """Knows of GOAWAY, which aioquic ignores, and opens a stream of a reserved type (RFC 9114 section 6.2.3)."""

    def __init__(self, quic):
        self.goaway = asyncio.get_running_loop().create_future()
        self.control = b""
        super().__init__(quic)
        stream = self._create_uni_stream(RESERVED_STREAM)
        quic.send_stream_data(stream, b"anything", end_stream=True)

    def handle_event(self, event):
        events = super().handle_event(event)
        if isinstance(event, StreamDataReceived) and event.stream_id == self._peer_control_stream_id:
            self.control += event.data
            self.look_for_goaway()
        return events

    def look_for_goaway(self):
        buffer = Buffer(data=self.control)
        try:
            buffer.pull_uint_var()  # The type of the stream.
            while not self.goaway.done():
                frame_type = buffer.pull_uint_var()
                payload = buffer.pull_bytes(buffer.pull_uint_var())
                stream = Buffer(data=payload).pull_uint_var() if frame_type == FrameType.GOAWAY else ALL_STREAMS
                if stream < ALL_STREAMS:
                    self.goaway.set_result(stream)
        except BufferReadError:
            pass  # The rest is still to come.

    def go_away(self, stream_id):
        frame = encode_frame(FrameType.GOAWAY, encode_uint_var(stream_id))
        self._quic.send_stream_data(self._local_control_stream_id, frame)


class Peer(QuicConnectionProtocol):
    """One connection. Events of a request stream go to a queue of its own."""

    def __init__(self, *args, on_request=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = None
        self.queues = {}
        self.terminated = None
        self.on_request = on_request
        self.last_request = -4

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = Http(self._quic)
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            for queue in self.queues.values():
                queue.put_nowait(event)
        elif isinstance(event, (StreamReset, StopSendingReceived)):
            self.deliver(event)
        if self.http is not None:
            for http_event in self.http.handle_event(event):
                self.deliver(http_event)

    def deliver(self, event):
        stream = event.stream_id
        if stream not in self.queues:
            # A request begins with its head; what comes behind its end is nobody's.
            if self.on_request is None or not isinstance(event, HeadersReceived):
                return
            self.queues[stream] = asyncio.Queue()
            self.last_request = max(self.last_request, stream)
            asyncio.ensure_future(self.on_request(self, stream))
        self.queues[stream].put_nowait(event)

    def caller(self):
        certificate = self._quic.tls._peer_certificate
        if certificate is None:
            return ""
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return names.value.get_values_for_type(x509.UniformResourceIdentifier)[0]

    def raw(self, stream, frame_type, payload):
        self._quic.send_stream_data(stream, encode_frame(frame_type, payload))

    def do_midway(self, stream, what):
        if what == "empty-data":
            self.raw(stream, FrameType.DATA, b"")
        elif what == "unknown-frame":
            self.raw(stream, RESERVED_FRAME, b"anything")
        elif what == "key-update":
            self.transmit()
            self._quic.request_key_update()


def text(headers):
    return {name.decode(): value.decode() for name, value in headers if name[:1] != b":"}


def pairs(fields):
    return [(name.encode(), value.encode()) for name, value in fields.items()]


class Client:
    def __init__(self, peer):
        self.peer = peer

    async def call(self, call):
        outcome = {
            "interim": [], "status": None, "headers": {}, "length": 0, "sha256": "",
            "trailers": {}, "stopped": None, "end": "complete",
        }
        peer = self.peer
        if peer.terminated is not None:
            outcome["end"] = {"closed": peer.terminated.error_code}
            return outcome
        stream = peer._quic.get_next_available_stream_id()
        queue = peer.queues[stream] = asyncio.Queue()
        try:
            await self.exchange(call, stream, queue, outcome)
        finally:
            del peer.queues[stream]
        return outcome

    async def exchange(self, call, stream, queue, outcome):
        peer, http = self.peer, self.peer.http
        http.send_headers(stream, request_headers(call))
        content = pattern(ENDLESS if call["then"] == "send-until-stopped" else call["content"])
        half = len(content) // 2
        is_connect = call["method"] == "CONNECT"
        if not is_connect:
            await self.send(call, stream, content, half)
        peer.transmit()
        digest = hashlib.sha256()
        try:
            while True:
                event = await queue.get()
                if isinstance(event, ConnectionTerminated):
                    outcome["end"] = {"closed": event.error_code}
                elif isinstance(event, StreamReset):
                    outcome["end"] = {"reset": event.error_code}
                elif isinstance(event, StopSendingReceived):
                    outcome["stopped"] = event.error_code
                    continue
                elif isinstance(event, HeadersReceived):
                    self.on_headers(event, outcome)
                    if is_connect and outcome["status"] == 200:
                        await self.send(call, stream, content, half)
                        peer.transmit()
                    if call["then"] == "cancel-upload":
                        peer._quic.reset_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
                        peer.transmit()
                        outcome["end"] = "cancelled"
                    elif not event.stream_ended:
                        continue
                elif isinstance(event, DataReceived):
                    outcome["length"] += len(event.data)
                    digest.update(event.data)
                    if call["then"] == "cancel-download" and event.data:
                        peer._quic.stop_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
                        peer.transmit()
                        outcome["end"] = "cancelled"
                    elif not event.stream_ended:
                        continue
                return
        finally:
            outcome["sha256"] = digest.hexdigest()

    async def send(self, call, stream, content, half):
        peer, http = self.peer, self.peer.http
        if content:
            http.send_data(stream, content[:half], end_stream=False)
        if call["midway"] == "rebind":
            peer.transmit()
            await self.rebind()
        else:
            peer.do_midway(stream, call["midway"])
        if content:
            http.send_data(stream, content[half:], end_stream=False)
        if call["trailers"]:
            http.send_headers(stream, pairs(call["trailers"]))
        if call["then"] in ("finish", "cancel-download"):
            peer._quic.send_stream_data(stream, b"", end_stream=True)

    async def rebind(self):
        """Goes on from another port; the old one is gone."""
        old, peer = self.peer._transport, self.peer
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Relay(peer), local_addr=("127.0.0.1", 0)
        )
        old.abort()

    def on_headers(self, event, outcome):
        if outcome["status"] is not None:
            outcome["trailers"] = text(event.headers)
            return
        status = int(dict(event.headers)[b":status"])
        if status < 200:
            outcome["interim"].append(status)
        else:
            outcome["status"] = status
            outcome["headers"] = text(event.headers)

    async def goaway(self):
        return await self.peer.http.goaway


class Relay(asyncio.DatagramProtocol):
    """A new socket under an old connection."""

    def __init__(self, peer):
        self.peer = peer

    def connection_made(self, transport):
        self.peer.connection_made(transport)

    def datagram_received(self, data, addr):
        self.peer.datagram_received(data, addr)


def request_headers(call):
    headers = [(b":method", call["method"].encode())]
    target = call["target"].encode()
    if call["method"] == "CONNECT" and call["protocol"] is None:
        headers.append((b":authority", target))
    else:
        headers += [(b":scheme", b"https"), (b":authority", b"server"), (b":path", target)]
    if call["protocol"] is not None:
        headers.append((b":protocol", call["protocol"].encode()))
    return headers + pairs(call["headers"])


class Server:
    def __init__(self):
        self.saw = asyncio.Queue()
        self.waiting, self.release = asyncio.Semaphore(0), asyncio.Semaphore(0)
        self.peers = set()

    async def on_request(self, peer, stream):
        self.peers.add(peer)
        queue = peer.queues[stream]
        event = await queue.get()
        head = dict(event.headers)
        if event.stream_ended:
            queue.put_nowait(DataReceived(data=b"", stream_id=stream, stream_ended=True))
        method, target = head[b":method"].decode(), head.get(b":path", head[b":authority"]).decode()
        seen = {"caller": peer.caller(), "target": target, "end": "complete"}
        try:
            await self.serve(peer, stream, queue, method, target)
        except Ended as ended:
            seen["end"] = ended.end
        peer.transmit()
        self.saw.put_nowait(seen)

    async def serve(self, peer, stream, queue, method, target):
        http, quic = peer.http, peer._quic

        def respond(status, end=False, **headers):
            fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
            http.send_headers(stream, [(b":status", b"%d" % status)] + fields, end_stream=end)

        if method == "CONNECT" or target == "/echo":
            respond(200)
            peer.transmit()
            await self.echo(peer, stream, queue)
        elif target in ("/hello", "/interim"):
            if target == "/interim":
                respond(103, link="</style>; rel=preload")
            respond(200, end=method == "HEAD", content_length="5")
            if method != "HEAD":
                http.send_data(stream, b"hello", end_stream=True)
        elif target == "/empty":
            respond(204, end=True, etag='"1"')
        elif target == "/unchanged":
            respond(304, end=True, etag='"1"', content_length="5")
        elif target == "/refused":
            quic.reset_stream(stream, ErrorCode.H3_REQUEST_REJECTED)
        elif target == "/half":
            respond(200)
            http.send_data(stream, pattern(1000), end_stream=False)
            peer.transmit()
            await self.release.acquire()
            quic.reset_stream(stream, ErrorCode.H3_INTERNAL_ERROR)
        elif target == "/endless":
            respond(200)
            http.send_data(stream, pattern(ENDLESS), end_stream=False)
            peer.transmit()
            await self.read(queue, lambda data: None)
            await self.read(queue, lambda data: None)
        elif target == "/hold":
            respond(200)
            peer.transmit()
            self.waiting.release()
            await self.release.acquire()
            http.send_data(stream, b"released", end_stream=True)
        elif target in ("/early", "/denied"):
            quic.stop_stream(stream, ErrorCode.H3_NO_ERROR)
            respond(200 if target == "/early" else 403)
            http.send_data(stream, target[1:].encode(), end_stream=True)
        elif target in ("/short", "/long"):
            respond(200, content_length="10")
            http.send_data(stream, pattern(9 if target == "/short" else 11), end_stream=True)
        elif target == "/large-head":
            respond(200, end=True, x_large="x" * 50_000)
        elif target in ("/empty-data", "/unknown-frame", "/key-update"):
            respond(200)
            http.send_data(stream, b"hel", end_stream=False)
            peer.do_midway(stream, target[1:])
            http.send_data(stream, b"lo", end_stream=True)
        else:
            respond(404, end=True)

    async def echo(self, peer, stream, queue):
        def on_data(data):
            if data:
                peer.http.send_data(stream, data, end_stream=False)
                peer.transmit()

        trailers = await self.read(queue, on_data)
        if trailers:
            peer.http.send_headers(stream, trailers, end_stream=True)
        else:
            peer._quic.send_stream_data(stream, b"", end_stream=True)

    async def read(self, queue, on_data):
        """Reads to the end of the request; gives its trailers."""
        while True:
            event = await queue.get()
            if isinstance(event, DataReceived):
                on_data(event.data)
            elif isinstance(event, (StreamReset, StopSendingReceived)):
                raise Ended({"reset": event.error_code})
            elif isinstance(event, ConnectionTerminated):
                raise Ended({"closed": event.error_code})
            if event.stream_ended:
                return event.headers if isinstance(event, HeadersReceived) else None

    def go_away(self, beyond):
        """Leaves out what comes `beyond` the last request."""
        for peer in self.peers:
            peer.http.go_away(peer.last_request + beyond)
            peer.transmit()


class Ended(Exception):
    def __init__(self, end):
        self.end = end


def configuration(is_client, ca, certificate=None, key=None):
    # An SVID has no name to check; the chain is checked against the CA.
    configuration = QuicConfiguration(
        is_client=is_client, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, max_datagram_size=1200
    )
    configuration.load_verify_locations(cafile=ca)
    if certificate is not None:
        configuration.load_cert_chain(certificate, key)
    return configuration


def ask_for_certificates():
    """aioquic's server asks for one only if this is set, which no setting does."""
    make = tls.Context.__init__

    def init(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self._request_client_certificate = True

    tls.Context.__init__ = init


async def connect(address, port, ca, *certificate):
    config = configuration(True, ca, *certificate)
    config.server_name = "weft.invalid"
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_datagram_endpoint(
        lambda: Peer(QuicConnection(configuration=config)), local_addr=("127.0.0.1", 0)
    )
    peer.connect((address, int(port)))
    try:
        await peer.wait_connected()
    except ConnectionError:
        return peer
    # In TLS 1.3 a client is done before the server has looked at its certificate.
    try:
        await peer.ping()
    except ConnectionError:
        pass
    return peer


async def control(on_line, announce, tell=None):
    """Serves the one control connection; each line is a job of its own."""
    done = asyncio.Event()

    async def on_connection(reader, writer):
        async def job(line):
            request = json.loads(line)
            answer = {"id": request["id"], "answer": await on_line(request)}
            writer.write(json.dumps(answer).encode() + b"\n")

        async def telling():
            while True:
                writer.write(json.dumps({"seen": await tell.get()}).encode() + b"\n")

        jobs = [asyncio.ensure_future(telling())] if tell else []
        while line := await reader.readline():
            jobs.append(asyncio.ensure_future(job(line)))
        done.set()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    print("control", port, announce, flush=True)
    await done.wait()


async def run_client(*arguments):
    # Who started this waits for the line before it serves anybody.
    connecting = asyncio.ensure_future(connect(*arguments))

    async def on_line(request):
        client = Client(await connecting)
        if request["do"] == "goaway":
            return await client.goaway()
        return await client.call(request["call"])

    await control(on_line, "")


async def run_server(ca, certificate, key):
    ask_for_certificates()
    server = Server()
    listening = await serve(
        "127.0.0.1", 0,
        configuration=configuration(False, ca, certificate, key),
        create_protocol=lambda *args, **kwargs: Peer(*args, on_request=server.on_request, **kwargs),
    )

    async def on_line(request):
        if request["do"] == "wait":
            await server.waiting.acquire()
        elif request["do"] == "release":
            server.release.release()
        else:
            server.go_away(request["beyond"])

    await control(on_line, listening._transport.get_extra_info("sockname")[1], server.saw)


if __name__ == "__main__":
    run = {"client": run_client, "server": run_server}[sys.argv[1]]
    asyncio.run(run(*sys.argv[2:]))
