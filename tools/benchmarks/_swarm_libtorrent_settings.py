"""How libtorrent is set for `swarm.py`: everything that was found to make it faster, and nothing it would wait for."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "allowed_enc_level": 1,
    "mixed_mode_algorithm": 0,
    "allow_multiple_connections_per_ip": True,
    "rate_limit_ip_overhead": False,
    "download_rate_limit": 0,
    "upload_rate_limit": 0,
    "unchoke_slots_limit": -1,
    "choking_algorithm": 0,
    "connections_limit": 200,
    "aio_threads": 4,
    "hashing_threads": 2,
    "file_pool_size": 40,
    "send_buffer_watermark": 8 * 2**20,
    "send_buffer_low_watermark": 2**20,
    "send_buffer_watermark_factor": 150,
    "recv_socket_buffer_size": 4 * 2**20,
    "send_socket_buffer_size": 4 * 2**20,
    "max_out_request_queue": 2_000,
    "max_allowed_in_request_queue": 4_000,
    "request_queue_time": 3,
    "max_queued_disk_bytes": 64 * 2**20,
    "suggest_mode": 0,
    "alert_mask": 0,
}
