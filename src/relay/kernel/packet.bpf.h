// What is read of a packet, kept of it, and written into it.
#pragma once
#include "bpf.h"

struct address {
	// IPv4 as ::ffff:a.b.c.d.
	be32 word[4];
};

struct ipv4 {
	u8 version_ihl;
	u8 tos;
	be16 total_len;
	be16 id;
	be16 fragment;
	u8 ttl;
	u8 protocol;
	u16 check;
	be32 source;
	be32 destination;
};

struct ipv6 {
	u8 version_class;
	u8 class_flow[3];
	be16 payload_len;
	u8 next_header;
	u8 hop_limit;
	struct address source;
	struct address destination;
};

struct udp {
	be16 source;
	be16 destination;
	be16 len;
	u16 check;
};

// All that is read of a packet with a single datagram, by one call.
struct headers4 {
	struct ipv4 ip;
	struct udp udp;
	be32 geneve[2];
};

struct headers6 {
	struct ipv6 ip;
	struct udp udp;
	be32 geneve[2];
};

// All that is written, from the time to live to the ports: it lies together.
struct changes4 {
	u8 ttl;
	u8 protocol;
	u16 check;
	be32 source;
	be32 destination;
	be16 ports[2];
};

struct changes6 {
	u8 unused[3];
	u8 hop_limit;
	struct address source;
	struct address destination;
	be16 ports[2];
};

// What is known of a datagram.
struct packet {
	// By its headers.
	struct address source;
	struct address destination;
	u32 family;
	u32 udp_at;
	// UDP payload: of all segments, and of one.
	u32 payload;
	u32 segment;
	struct udp udp;
	// Zeros where the payload is too short for it.
	be32 geneve[2];
	u32 vni;
	u8 ttl;
	u8 unused;
	u16 ipv4_check;
	u64 now;
	// When it came in, of those that are timed; 0 of others.
	u64 start;
	// Which address of this host it was sent to (a key of ADDRESSES).
	u32 local;
	// By its session: the client that it goes to, and where from.
	u32 egress;
	be16 client_port;
	u16 mtu;
	u32 ifindex;
	struct address client;
	struct address hears_from;
};
