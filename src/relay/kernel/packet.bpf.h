// Parts of a packet that the program reads, keeps and writes.
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

// Headers of a packet with a single datagram, which one call loads.
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

// Fields that are written, from the time to live to the ports; they are adjacent in the packet.
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

// Properties of a datagram.
struct packet {
	// From its headers.
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
	// Time at which it came in, if it is timed; otherwise 0.
	u64 start;
	// Address of this host to which it was sent (a key of ADDRESSES).
	u32 local;
	// From its session: the client to which it goes, and the way there.
	u32 egress;
	be16 client_port;
	u16 mtu;
	u32 ifindex;
	struct address client;
	struct address hears_from;
};
