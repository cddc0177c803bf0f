// The relay's fast path: forwards data of open sessions where packets enter the host, before
// anything else has looked at them. It decides less than the protocol core and never otherwise:
// what it is not sure of goes on to the socket, where the core decides. `abi.rs` has the same
// structures.
#include "bpf.h"

enum { IPV4 = 0, IPV6 = 1, FAMILIES = 2 };
enum { PROTOCOL_UDP = 17, PACKET_HOST = 0 };
enum { ETHERNET = 14, IPV4_LEN = 20, IPV6_LEN = 40, UDP_LEN = 8, GENEVE_LEN = 8 };
// Most segments of a super-packet (UDP_MAX_SEGMENTS).
enum { SEGMENTS = 128 };
enum { LOCAL_ADDRESSES = 1024, ROUTERS = 1024 };
// Unknown VNIs that one CPU lets through in a window of 2^27 ns (134 ms).
enum { WINDOW = 27, UNKNOWN_MOST = 256 };
// Handshake messages of known ones, likewise.
enum { HANDSHAKES_MOST = 8192 };
// One datagram in this many is timed, on each CPU.
enum { SAMPLE = 256, BUCKETS = 16, FIRST_BUCKET = 7 };

// Why a datagram for the relay's port went on to the socket; `abi.rs` names them.
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

// A limit on bandwidth, as the core's `Pace`.
struct pace {
	// 0 for none.
	u64 bytes_per_second;
	// Nanoseconds whose data may come at once.
	u64 burst;
};

struct config {
	// Moment (CLOCK_MONOTONIC) after which nothing is forwarded: the relay renews it.
	u64 valid_until;
	// 0 while the relay has no port.
	be16 port;
	u8 unused[2];
	// Number of words in KNOWN, a power of two, less one.
	u32 known_mask;
	// Of each session, and of all of them.
	struct pace session;
	struct pace relay;
};

struct address {
	// IPv4 as ::ffff:a.b.c.d.
	be32 word[4];
};

struct leg {
	struct address address;
	// Device towards it.
	u32 ifindex;
	be16 port;
	// Longest IP packet on the way.
	u16 mtu;
};

struct activity {
	u64 packets;
	u64 bytes;
	u64 last_seen;
};

struct session {
	struct leg legs[2];
	// Of both legs; FAMILIES when the socket must forward.
	u32 family;
	// Which local address each leg was bound through (a key of ADDRESSES; 0 when that is not
	// known): it hears from there, as firewalls and NATs on its way expect.
	u16 local[2];
	// Which router each leg's datagrams go to (a key of GATEWAYS): 0 for none, as the link leads to
	// the client; one that is not there leaves it to the routes.
	u16 gateway[2];
	u32 unused;
	struct activity from[2];
	// Moment at which it owes nothing to its limit.
	u64 owes;
};

struct traffic {
	u64 packets;
	u64 bytes;
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

// What one CPU keeps for itself.
struct scratch {
	u64 window;
	u64 unknown_count;
	u64 handshake_count;
	u64 seen;
};

struct {
	UINT(type, MAP_HASH);
	UINT(map_flags, NO_PREALLOC);
	// The loader sets the relay's limit.
	UINT(max_entries, 65536);
	TYPE(key, u32);
	TYPE(value, struct session);
} SESSIONS SEC(".maps");

// Addresses of this host, with their keys of ADDRESSES: a datagram for another host is not ours,
// whatever its port.
struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, LOCAL_ADDRESSES);
	TYPE(key, struct address);
	TYPE(value, u32);
} LOCALS SEC(".maps");

// The same by key, from 1; zeros where there is none.
struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, LOCAL_ADDRESSES);
	TYPE(key, u32);
	TYPE(value, struct address);
} ADDRESSES SEC(".maps");

// Routers by key, from 1.
struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, ROUTERS);
	TYPE(key, u32);
	TYPE(value, struct address);
} GATEWAYS SEC(".maps");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct config);
} CONFIG SEC(".maps");

// Moment at which the relay owes nothing to its limit: one number for this program and the core.
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

// By family.
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

// What is known of a datagram once its headers are read.
struct packet {
	struct address source;
	struct address destination;
	u32 family;
	u32 udp_at;
	// UDP payload: of all segments, and of one.
	u32 payload;
	u32 segment;
	struct udp udp;
	u8 ttl;
	u16 ipv4_check;
};

// Counters are looked up, never indexed: without CAP_PERFMON the verifier lets no pointer differ
// by path.
INLINE void count(u32 key, u64 by)
{
	u64 *counter = map_lookup(&COUNTERS, &key);
	if (counter)
		*counter += by;
}

INLINE int pass(enum pass reason)
{
	count(reason, 1);
	return NEXT;
}

INLINE int same(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

INLINE int is_leg(const struct leg *leg, const struct packet *packet)
{
	return leg->port == packet->udp.source && same(&leg->address, &packet->source);
}

INLINE u32 fold32(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

// One's complement sum that replacing `from` by `to` adds.
INLINE u32 address_difference(const struct address *from, const struct address *to)
{
	u64 sum = 0;
	for (int i = 0; i < 4; i++)
		sum += (u64)to->word[i] + (u32)~from->word[i];
	return fold32(sum);
}

INLINE u16 fold16(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// Whether the Geneve header at `at` is data (version 0, no control bit), and of this session.
INLINE int is_data_of(const struct __sk_buff *skb, u32 at, be32 vni)
{
	be32 header[2];
	if (load_bytes(skb, at, header, sizeof(header)))
		return 0;
	return !(header[0] & BE32(0xc0800000)) && (header[1] & BE32(0xffffff00)) == vni;
}

// GRO joins datagrams of equal length between the same two addresses and ports, whatever their VNI.
// Unrolled: without CAP_PERFMON the verifier walks the mispredicted ways through a loop too, and
// gives up.
INLINE int is_uniform(const struct __sk_buff *skb, const struct packet *packet, be32 vni)
{
	u32 at = packet->segment;
#pragma clang loop unroll(full)
	for (int i = 1; i < SEGMENTS; i++) {
		if (at >= packet->payload)
			return 1;
		if (!is_data_of(skb, packet->udp_at + UDP_LEN + at, vni))
			return 0;
		at += packet->segment;
	}
	return at >= packet->payload;
}

INLINE int is_known(const struct config *config, u32 vni)
{
	u32 word = vni >> 6 & config->known_mask;
	const u64 *bits = map_lookup(&KNOWN, &word);
	return bits && *bits >> (vni & 63) & 1;
}

INLINE void turn_window(struct scratch *scratch, u64 now)
{
	u64 window = now >> WINDOW;
	if (scratch->window != window) {
		scratch->window = window;
		scratch->unknown_count = 0;
		scratch->handshake_count = 0;
	}
}

// Whoever has seen a handshake can send it again from anywhere. A thread answers 1,342 in the time
// of a window, and as many as these when none came before.
INLINE int handshake(struct scratch *scratch, u64 now)
{
	turn_window(scratch, now);
	if (scratch->handshake_count >= HANDSHAKES_MOST) {
		count(DROPPED_BUSY, 1);
		return DROP;
	}
	scratch->handshake_count++;
	return pass(PASS_CONTROL);
}

// A token counter on each CPU: a flood of numbers that name no session ends here.
INLINE int unknown(struct scratch *scratch, const struct config *config, u32 vni, u64 now)
{
	turn_window(scratch, now);
	if (scratch->unknown_count >= UNKNOWN_MOST && !is_known(config, vni)) {
		count(DROPPED_UNKNOWN, 1);
		return DROP;
	}
	scratch->unknown_count++;
	return pass(PASS_UNKNOWN_VNI);
}

INLINE u64 cost(const struct pace *pace, u32 bytes)
{
	return bytes * 1000000000ull / pace->bytes_per_second;
}

INLINE int has_room(const struct pace *pace, const u64 *owes, u64 cost, u64 now)
{
	u64 from = *owes > now ? *owes : now;
	return from + cost - now <= pace->burst;
}

// CPUs that meet here let a datagram each too many through, which stays owed; the plain write loses
// what another CPU adds just then to a limit that nobody has come near.
INLINE void owe(u64 *owes, u64 cost, u64 now)
{
	if (*owes < now)
		*owes = now;
	__sync_fetch_and_add(owes, cost);
}

// Whether data is within the limits of its session and of the relay, and takes it into account if
// so; otherwise the counter of what is dropped.
INLINE u32 above_limit(const struct config *config, struct session *session, u32 bytes, u64 now)
{
	u32 zero = 0;
	u64 of_session = 0, *owes;
	if (config->session.bytes_per_second) {
		of_session = cost(&config->session, bytes);
		if (!has_room(&config->session, &session->owes, of_session, now))
			return DROPPED_SESSION_RATE;
	}
	if (config->relay.bytes_per_second && (owes = map_lookup(&DEBT, &zero))) {
		u64 of_relay = cost(&config->relay, bytes);
		if (!has_room(&config->relay, owes, of_relay, now))
			return DROPPED_RELAY_RATE;
		owe(owes, of_relay, now);
	}
	if (of_session)
		owe(&session->owes, of_session, now);
	return 0;
}

// Writes the new addresses and ports with their checksums. Ports are no part of the pseudo header:
// of a checksum that hardware completes (CHECKSUM_PARTIAL) only the addresses are there yet.
INLINE int rewrite(struct __sk_buff *skb, const struct packet *packet, const struct address *source,
		   const struct leg *to)
{
	u32 addresses = fold32((u64)address_difference(&packet->source, &to->address) +
			       address_difference(&packet->destination, source));
	u32 ports = (u32)to->port + (u16)~packet->udp.source;
	u32 check_at = packet->udp_at + 6;
	be16 new_ports[2] = { packet->udp.destination, to->port };

	if (l4_checksum_replace(skb, check_at, 0, addresses, PSEUDO_HEADER | MANGLED_ZERO) ||
	    l4_checksum_replace(skb, check_at, 0, ports, MANGLED_ZERO) ||
	    store_bytes(skb, packet->udp_at, new_ports, sizeof(new_ports), 0))
		return -1;
	if (packet->family == IPV4) {
		struct {
			u8 ttl;
			u8 protocol;
			u16 check;
			be32 source;
			be32 destination;
		} header = {
			.ttl = packet->ttl - 1,
			.protocol = PROTOCOL_UDP,
			.source = source->word[3],
			.destination = to->address.word[3],
		};
		// The TTL falls by one, so this word of the header falls by 0x0100.
		u32 sum = (u16)~packet->ipv4_check + (u32)(u16)~BE16(0x0100);
		header.check = ~fold16(sum + fold16(addresses));
		return store_bytes(skb, ETHERNET + 8, &header, sizeof(header), 0);
	}
	struct {
		struct address source;
		struct address destination;
	} header = { *source, to->address };
	u8 hop_limit = packet->ttl - 1;
	return store_bytes(skb, ETHERNET + 7, &hop_limit, sizeof(hop_limit), 0) ||
	       store_bytes(skb, ETHERNET + 8, &header, sizeof(header), 0);
}

INLINE void set_hop(struct next_hop *hop, const struct address *address)
{
	if (!address->word[0] && !address->word[1] && address->word[2] == BE32(0xffff)) {
		hop->family = INTERNET;
		hop->address[0] = address->word[3];
		return;
	}
	hop->family = INTERNET6;
	for (int i = 0; i < 4; i++)
		hop->address[i] = address->word[i];
}

// Out of the leg's device, to its neighbour there. Which one that is the routes have told when the
// entry was made: a lookup for each packet costs as much as everything else here.
INLINE int send_on(const struct leg *to, u32 gateway)
{
	struct next_hop hop = {};
	if (gateway) {
		const struct address *router = map_lookup(&GATEWAYS, &gateway);
		if (!router)
			return redirect_neighbour(to->ifindex, 0, 0, 0);
		set_hop(&hop, router);
	} else {
		set_hop(&hop, &to->address);
	}
	return redirect_neighbour(to->ifindex, &hop, sizeof(hop), 0);
}

INLINE void time_sample(u64 start)
{
	u64 spent = time_ns() - start;
	u32 bucket = 0;
	for (; bucket < BUCKETS - 1; bucket++)
		if (spent <= 1ull << (FIRST_BUCKET + bucket))
			break;
	count(LATENCY_BUCKETS + bucket, 1);
	count(LATENCY_SUM, spent);
}

INLINE int forward(struct __sk_buff *skb, struct packet *packet, struct scratch *scratch,
		   const struct config *config)
{
	u64 start = scratch->seen++ % SAMPLE ? 0 : time_ns();
	u64 now = coarse_time_ns();
	if (now >= config->valid_until)
		return pass(PASS_NOT_RENEWED);
	const u32 *local = map_lookup(&LOCALS, &packet->destination);
	if (!local)
		return pass(PASS_NOT_LOCAL);

	be32 header[2];
	if (packet->payload < GENEVE_LEN ||
	    load_bytes(skb, packet->udp_at + UDP_LEN, header, sizeof(header)) ||
	    header[0] & BE32(0xc0000000))
		return pass(PASS_MALFORMED);
	be32 vni = header[1] & BE32(0xffffff00);
	u32 key = BE32(vni) >> 8;
	if (header[0] & BE32(0x00800000)) {
		// VNI 0 is that of probes. What GRO has joined may be of several sessions.
		if (!key || packet->segment < packet->payload)
			return pass(PASS_CONTROL);
		if (is_known(config, key))
			return handshake(scratch, now);
		return unknown(scratch, config, key, now);
	}
	if (packet->segment < packet->payload && !is_uniform(skb, packet, vni))
		return pass(PASS_MIXED);
	struct session *session = map_lookup(&SESSIONS, &key);
	if (!session)
		return unknown(scratch, config, key, now);

	// The assembler (which does nothing) keeps clang from joining the branches into one with a computed
	// offset, which the verifier would refuse.
	const struct leg *to;
	struct activity *from;
	u32 hears_from, gateway;
	if (is_leg(&session->legs[0], packet)) {
		to = &session->legs[1];
		from = &session->from[0];
		hears_from = session->local[1];
		gateway = session->gateway[1];
		asm volatile("%0 = %0" : "+r"(to), "+r"(from));
	} else if (is_leg(&session->legs[1], packet)) {
		to = &session->legs[0];
		from = &session->from[1];
		hears_from = session->local[0];
		gateway = session->gateway[0];
		asm volatile("%1 = %1" : "+r"(to), "+r"(from));
	} else {
		return pass(PASS_NOT_A_LEG);
	}
	if (session->family != packet->family)
		return pass(PASS_SOCKET_SESSION);
	// A checksum of zero is none, which IPv4 allows and nobody should send on.
	if (!packet->udp.check)
		return pass(PASS_NO_CHECKSUM);
	if (packet->ttl <= 1)
		return pass(PASS_TTL);
	if (packet->udp_at - ETHERNET + UDP_LEN + packet->segment > to->mtu)
		return pass(PASS_MTU);
	u32 packets = (packet->payload + packet->segment - 1) / packet->segment;
	// VNI 0 is the self-test's.
	u32 limit = key ? above_limit(config, session, packet->payload, now) : 0;
	if (limit) {
		count(limit, packets);
		return DROP;
	}
	const struct address *source = &packet->destination;
	if (hears_from && hears_from != *local) {
		const struct address *other = map_lookup(&ADDRESSES, &hears_from);
		if (other && other->word[3])
			source = other;
	}
	if (rewrite(skb, packet, source, to))
		return pass(PASS_ERROR);

	__sync_fetch_and_add(&from->packets, packets);
	__sync_fetch_and_add(&from->bytes, packet->payload);
	from->last_seen = now;
	u32 family = packet->family;
	struct traffic *forwarded = map_lookup(&FORWARDED, &family);
	if (forwarded && key) {
		forwarded->packets += packets;
		forwarded->bytes += packet->payload;
	}
	if (start)
		time_sample(start);
	return send_on(to, gateway);
}

SEC("classifier")
int peerrelay(struct __sk_buff *skb)
{
	struct packet packet = {};
	u32 zero = 0, fragment = 0, len;

	if (skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return NEXT;
	if (skb->protocol == BE16(0x0800)) {
		struct ipv4 ip;
		// With options, or without ports: not for here.
		if (load_bytes(skb, ETHERNET, &ip, sizeof(ip)) || ip.protocol != PROTOCOL_UDP ||
		    ip.version_ihl != 0x45 || ip.fragment & BE16(0x1fff))
			return NEXT;
		fragment = ip.fragment & BE16(0x2000);
		packet.source.word[2] = packet.destination.word[2] = BE32(0xffff);
		packet.source.word[3] = ip.source;
		packet.destination.word[3] = ip.destination;
		packet.family = IPV4;
		packet.udp_at = ETHERNET + IPV4_LEN;
		packet.ttl = ip.ttl;
		packet.ipv4_check = ip.check;
		len = BE16(ip.total_len);
	} else if (skb->protocol == BE16(0x86dd)) {
		struct ipv6 ip;
		if (load_bytes(skb, ETHERNET, &ip, sizeof(ip)) || ip.next_header != PROTOCOL_UDP ||
		    ip.version_class >> 4 != 6)
			return NEXT;
		packet.source = ip.source;
		packet.destination = ip.destination;
		packet.family = IPV6;
		packet.udp_at = ETHERNET + IPV6_LEN;
		packet.ttl = ip.hop_limit;
		len = IPV6_LEN + BE16(ip.payload_len);
	} else {
		return NEXT;
	}
	if (load_bytes(skb, packet.udp_at, &packet.udp, sizeof(packet.udp)))
		return NEXT;
	struct config *config = map_lookup(&CONFIG, &zero);
	struct scratch *scratch = map_lookup(&SCRATCH, &zero);
	if (!config || !scratch || !config->port || packet.udp.destination != config->port)
		return NEXT;
	if (fragment)
		return pass(PASS_FRAGMENT);
	// Padding and disagreeing lengths are for the stack to sort out.
	if (skb->len != ETHERNET + len || ETHERNET + len - packet.udp_at != BE16(packet.udp.len) ||
	    BE16(packet.udp.len) < UDP_LEN)
		return pass(PASS_MALFORMED);
	packet.payload = BE16(packet.udp.len) - UDP_LEN;
	packet.segment = skb->gso_size ? skb->gso_size : packet.payload;
	return forward(skb, &packet, scratch, config);
}

char LICENSE[] SEC("license") = "Apache-2.0";
