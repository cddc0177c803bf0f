// Keys, values and maps of the program, byte for byte as `abi.rs`, `entry.rs` and `egress.rs` have
// them.
#pragma once
#include "packet.bpf.h"

enum { IPV4 = 0, IPV6 = 1, FAMILIES = 2 };
enum { LOCAL_ADDRESSES = 1024, EXIT_COUNT = 1024, SIGHTING_COUNT = 4096 };
enum { BUCKETS = 16, FIRST_BUCKET = 7 };

// Reason why a datagram for the relay's port went on to the socket; `abi.rs` has the labels.
enum pass {
	PASS_CONTROL,
	PASS_UNKNOWN_VNI,
	PASS_NOT_A_LEG,
	PASS_MIXED,
	PASS_FRAGMENT,
	PASS_MALFORMED,
	PASS_NO_CHECKSUM,
	PASS_TTL,
	PASS_MTU,
	PASS_SOCKET_SESSION,
	PASS_NOT_LOCAL,
	PASS_NOT_RENEWED,
	PASS_ERROR,
	PASSES,
};

// Keys of COUNTERS, after those of `enum pass`.
enum {
	DROPPED_UNKNOWN = PASSES,
	DROPPED_SESSION_RATE,
	DROPPED_RELAY_RATE,
	DROPPED_BUSY,
	LATENCY_SUM,
	LATENCY_BUCKETS,
	COUNTER_COUNT = LATENCY_BUCKETS + BUCKETS,
};

// A limit on bandwidth, as the core's `RateLimit`.
struct rate_limit {
	// 0 for no limit.
	u64 bytes_per_second;
	// Nanoseconds whose data may come at once.
	u64 burst;
};

struct config {
	// Time (CLOCK_MONOTONIC, ns) after which nothing is forwarded; the relay renews it.
	u64 valid_until;
	// 0 while the relay has no port.
	be16 port;
	u8 unused[2];
	// Number of words in KNOWN, a power of two, less one.
	u32 known_mask;
	// Limits of each session, and of all sessions together.
	struct rate_limit session;
	struct rate_limit relay;
};

struct traffic {
	u64 packets;
	u64 bytes;
};

// One client's half of a session; its address is at the entry's end.
struct leg {
	be16 port;
	// Longest IP packet on the way to it; 0 where the socket must forward.
	u16 mtu;
	// How datagrams get to it (a key of EXITS).
	u16 egress;
	// Tick of CLOCK_MONOTONIC (2^26 ns, which u16 counts for 73 minutes) at which data came from it.
	u16 last_seen;
	// Traffic from it.
	struct traffic heard;
};

struct session {
	struct leg legs[2];
	// Theoretical arrival time (GCRA, CLOCK_MONOTONIC, ns) for the limit of the session.
	u64 tat;
};

// Entry of a session with both legs on IPv4. It has 64 bytes, so that it takes 128 with the header that
// the kernel puts before it.
struct session4 {
	struct session session;
	be32 address[2];
};

struct session6 {
	struct session session;
	struct address address[2];
};

// Way of datagrams out of this host.
struct egress {
	// Index of the device.
	u32 ifindex;
	// Local address through which the leg was bound (a key of ADDRESSES; 0 when it is not known). Its
	// datagrams come from there, as firewalls and NATs on the way expect.
	u32 local;
	// Router that comes next; all zeros when the link leads to the client.
	struct address gateway;
};

// A datagram as it came to the relay's port. Where packets enter the host, nothing of this host has
// translated their addresses yet.
struct sighting {
	u32 vni;
	be16 port;
	u8 unused[2];
	struct address client;
	// Address of this host to which the client has sent it.
	struct address local;
};

// Memory of one CPU, which also holds everything about a packet: in programs of processes without
// CAP_PERFMON, the kernel adds a barrier against speculation after each first write to the stack.
struct scratch {
	// Set while the program runs on this CPU: a run that interrupts it must not touch the rest.
	// Volatile, because the compiler sees nobody else read it and would drop the writes.
	volatile u32 busy;
	// A key that is always 0.
	u32 zero;
	u64 window;
	u64 unknown_count;
	u64 handshake_count;
	u64 seen;
	struct packet packet;
	union {
		struct headers4 headers4;
		struct headers6 headers6;
	};
	union {
		struct changes4 changes4;
		struct changes6 changes6;
	};
	struct next_hop hop;
	struct sighting sighting;
};

// Sessions between IPv4 addresses. The loader sets the relay's limit, here and below.
struct {
	UINT(type, MAP_HASH);
	// Without preallocation, an entry takes memory only while its session is open.
	UINT(map_flags, NO_PREALLOC);
	UINT(max_entries, 65536);
	TYPE(key, u32);
	TYPE(value, struct session4);
} SESSIONS4 SEC(".maps");

// All other sessions.
struct {
	UINT(type, MAP_HASH);
	UINT(map_flags, NO_PREALLOC);
	UINT(max_entries, 65536);
	TYPE(key, u32);
	TYPE(value, struct session6);
} SESSIONS6 SEC(".maps");

// Egresses by key, from 1; 0 stands for none.
struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, EXIT_COUNT);
	TYPE(key, u32);
	TYPE(value, struct egress);
} EXITS SEC(".maps");

// Keys of ADDRESSES by address, for all addresses of this host: a datagram for another host is left
// alone, whatever its port.
struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, LOCAL_ADDRESSES);
	TYPE(key, struct address);
	TYPE(value, u32);
} LOCALS SEC(".maps");

// Addresses of this host by key, from 1; zeros where there is none.
struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, LOCAL_ADDRESSES);
	TYPE(key, u32);
	TYPE(value, struct address);
} ADDRESSES SEC(".maps");

// Handshakes, and data that the sockets forwarded. The relay looks up whether the program has seen a leg with the
// addresses that the sockets know. A flood of handshakes displaces the oldest ones. The values mean nothing.
struct {
	UINT(type, MAP_LRU_HASH);
	UINT(max_entries, SIGHTING_COUNT);
	TYPE(key, struct sighting);
	TYPE(value, u32);
} SIGHTINGS SEC(".maps");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct config);
} CONFIG SEC(".maps");

// Theoretical arrival time (GCRA) for the limit of the relay: one number for this program and the core.
struct {
	UINT(type, MAP_ARRAY);
	UINT(map_flags, MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
} DEBT SEC(".maps");

// A bit for each VNI that may have a session: bit vni % 64 of word vni / 64 & known_mask. The core
// sets it before anyone can know of the session; an entry comes later.
struct {
	UINT(type, MAP_ARRAY);
	UINT(map_flags, MMAPABLE);
	// The loader sets as many as the relay's limit needs.
	UINT(max_entries, 16384);
	TYPE(key, u32);
	TYPE(value, u64);
} KNOWN SEC(".maps");

struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, COUNTER_COUNT);
	TYPE(key, u32);
	TYPE(value, u64);
} COUNTERS SEC(".maps");

// Forwarded traffic by IP version.
struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, FAMILIES);
	TYPE(key, u32);
	TYPE(value, struct traffic);
} FORWARDED SEC(".maps");

struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct scratch);
} SCRATCH SEC(".maps");
