// The relay's fast path: forwards data of open sessions where packets enter the host, before
// anything else has looked at them. It decides less than the protocol core and never otherwise:
// what it is not sure of goes on to the socket, where the core decides. `maps.bpf.h` has
// what both keep.
#include "maps.bpf.h"

enum { PROTOCOL_UDP = 17, PACKET_HOST = 0 };
enum { ETHERNET = 14, IPV4_LEN = 20, IPV6_LEN = 40, UDP_LEN = 8, GENEVE_LEN = 8 };
// Most segments of a super-packet (UDP_MAX_SEGMENTS).
enum { SEGMENTS = 128 };
// Unknown VNIs that one CPU lets through in a window of 2^27 ns (134 ms).
enum { WINDOW = 27, UNKNOWN_MOST = 256 };
// Handshake messages of known ones, likewise.
enum { HANDSHAKES_MOST = 8192 };
// One datagram in this many is timed, on each CPU.
enum { SAMPLE = 256 };
// Of a Geneve header: version, control bit and VNI.
#define SAME BE64(0xc0800000ffffff00ull)
// A tick of `struct leg`.
enum { TICK = 26 };

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
	// Zeros where the payload is too short for it.
	be32 geneve[2];
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

INLINE int is_local(const struct packet *packet)
{
	return map_lookup(&LOCALS, &packet->destination) != 0;
}

// For what the sockets decide about, as far as it is addressed to this host.
INLINE int pass_local(const struct packet *packet, enum pass reason)
{
	return pass(is_local(packet) ? reason : PASS_NOT_LOCAL);
}

INLINE int same(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

INLINE u32 fold32(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

INLINE u64 word_difference(be32 from, be32 to)
{
	return (u64)to + (u32)~from;
}

// One's complement sum that replacing `from` by `to` adds. No loop: without CAP_PERFMON the verifier
// lets none go through what a map holds.
INLINE u32 address_difference(u32 family, const struct address *from, const struct address *to)
{
	u64 sum = word_difference(from->word[3], to->word[3]);
	if (family == IPV6)
		sum += word_difference(from->word[0], to->word[0]) +
		       word_difference(from->word[1], to->word[1]) +
		       word_difference(from->word[2], to->word[2]);
	return fold32(sum);
}

INLINE u16 fold16(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// GRO joins datagrams of equal length between the same two addresses and ports, whatever their VNI:
// whether the Geneve headers of all, each so far behind the one before, begin like the first. A
// function of its own has all registers for itself. Unrolled: without CAP_PERFMON the verifier walks
// the mispredicted ways through a loop too, and gives up.
OWN int is_uniform(const struct __sk_buff *skb, u32 at, u32 segment, u64 first)
{
	u64 header;
#pragma clang loop unroll(full)
	for (int i = 1; i < SEGMENTS; i++) {
		at += segment;
		if (at >= skb->len)
			return 1;
		if (load_bytes(skb, at, &header, sizeof(header)) || (header & SAME) != first)
			return 0;
	}
	return at + segment >= skb->len;
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
INLINE int handshake(struct scratch *scratch, const struct packet *packet, u64 now)
{
	if (!is_local(packet))
		return pass(PASS_NOT_LOCAL);
	turn_window(scratch, now);
	if (scratch->handshake_count >= HANDSHAKES_MOST) {
		count(DROPPED_BUSY, 1);
		return DROP;
	}
	scratch->handshake_count++;
	return pass(PASS_CONTROL);
}

// A token counter on each CPU: a flood of numbers that name no session ends here.
INLINE int unknown(struct scratch *scratch, const struct config *config,
		   const struct packet *packet, u32 vni, u64 now)
{
	if (!is_local(packet))
		return pass(PASS_NOT_LOCAL);
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

// Where a datagram comes from and goes to, of its session's two legs.
struct direction {
	struct leg *from;
	const struct leg *to;
	struct traffic *heard;
	struct address client;
};

// The assembler (which does nothing) keeps clang from joining both into one with a computed offset,
// which the verifier would refuse without CAP_PERFMON.
INLINE void from_first(struct direction *direction, struct session *session)
{
	direction->from = &session->legs[0];
	direction->to = &session->legs[1];
	direction->heard = &session->from[0];
	asm volatile("%0 = %0" : "+r"(direction->from), "+r"(direction->to), "+r"(direction->heard));
}

INLINE void from_second(struct direction *direction, struct session *session)
{
	direction->from = &session->legs[1];
	direction->to = &session->legs[0];
	direction->heard = &session->from[1];
	asm volatile("%1 = %1" : "+r"(direction->from), "+r"(direction->to), "+r"(direction->heard));
}

// Writes the new addresses and ports with their checksums. Ports are no part of the pseudo header:
// of a checksum that hardware completes (CHECKSUM_PARTIAL) only the addresses are there yet.
INLINE int rewrite(struct __sk_buff *skb, u32 family, const struct packet *packet,
		   const struct address *source, const struct address *client, be16 port)
{
	u32 addresses = fold32((u64)address_difference(family, &packet->source, client) +
			       address_difference(family, &packet->destination, source));
	u32 ports = (u32)port + (u16)~packet->udp.source;
	u32 check_at = packet->udp_at + 6;

	if (l4_checksum_replace(skb, check_at, 0, addresses, PSEUDO_HEADER | MANGLED_ZERO) ||
	    l4_checksum_replace(skb, check_at, 0, ports, MANGLED_ZERO))
		return -1;
	// From the time to live to the ports, all that changes lies together.
	if (family == IPV4) {
		struct {
			u8 ttl;
			u8 protocol;
			u16 check;
			be32 source;
			be32 destination;
			be16 ports[2];
		} header = {
			.ttl = packet->ttl - 1,
			.protocol = PROTOCOL_UDP,
			.source = source->word[3],
			.destination = client->word[3],
			.ports = { packet->udp.destination, port },
		};
		// The TTL falls by one, so this word of the header falls by 0x0100.
		u32 sum = (u16)~packet->ipv4_check + (u32)(u16)~BE16(0x0100);
		header.check = ~fold16(sum + fold16(addresses));
		return store_bytes(skb, ETHERNET + 8, &header, sizeof(header), 0);
	}
	struct {
		u8 unused[3];
		u8 hop_limit;
		struct address source;
		struct address destination;
		be16 ports[2];
	} header = {
		.hop_limit = packet->ttl - 1,
		.source = *source,
		.destination = *client,
		.ports = { packet->udp.destination, port },
	};
	return store_bytes(skb, ETHERNET + 7, &header.hop_limit, sizeof(header) - 3, 0);
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
INLINE int send_on(const struct exit *exit, const struct address *client)
{
	struct next_hop hop = {};
	const be32 *router = exit->gateway.word;
	if (router[0] | router[1] | router[2] | router[3])
		set_hop(&hop, &exit->gateway);
	else
		set_hop(&hop, client);
	return redirect_neighbour(exit->ifindex, &hop, sizeof(hop), 0);
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

// A datagram with its Geneve header read.
struct data {
	u64 now;
	// When it came in, of those that are timed; 0 of others.
	u64 start;
	u32 vni;
};

// Which address of this host a datagram was sent to (a key of ADDRESSES). Mostly the one that its
// client has bound through; then the others need not be looked through.
INLINE int find_local(const struct packet *packet, const struct leg *from, u32 *local)
{
	u32 key = from->exit;
	const struct exit *exit = map_lookup(&EXITS, &key);
	if (exit) {
		key = exit->local;
		const struct address *bound = map_lookup(&ADDRESSES, &key);
		if (bound && same(bound, &packet->destination)) {
			*local = key;
			return 1;
		}
	}
	const u32 *found = map_lookup(&LOCALS, &packet->destination);
	if (!found)
		return 0;
	*local = *found;
	return 1;
}

INLINE int relay(struct __sk_buff *skb, u32 family, const struct packet *packet,
		 const struct config *config, const struct data *data, struct session *session,
		 const struct direction *direction)
{
	const struct leg *to = direction->to;
	u32 local;
	if (!find_local(packet, direction->from, &local))
		return pass(PASS_NOT_LOCAL);
	if (!to->mtu)
		return pass(PASS_SOCKET_SESSION);
	// A checksum of zero is none, which IPv4 allows and nobody should send on.
	if (!packet->udp.check)
		return pass(PASS_NO_CHECKSUM);
	if (packet->ttl <= 1)
		return pass(PASS_TTL);
	if (packet->udp_at - ETHERNET + UDP_LEN + packet->segment > to->mtu)
		return pass(PASS_MTU);
	u32 key = to->exit;
	const struct exit *exit = map_lookup(&EXITS, &key);
	if (!exit)
		return pass(PASS_ERROR);
	u32 packets = (packet->payload + packet->segment - 1) / packet->segment;
	// VNI 0 is the self-test's.
	u32 limit = data->vni ? above_limit(config, session, packet->payload, data->now) : 0;
	if (limit) {
		count(limit, packets);
		return DROP;
	}
	const struct address *source = &packet->destination;
	u32 hears_from = exit->local;
	if (hears_from && hears_from != local) {
		const struct address *other = map_lookup(&ADDRESSES, &hears_from);
		if (other && other->word[3])
			source = other;
	}
	if (rewrite(skb, family, packet, source, &direction->client, to->port))
		return pass(PASS_ERROR);

	__sync_fetch_and_add(&direction->heard->packets, packets);
	__sync_fetch_and_add(&direction->heard->bytes, packet->payload);
	direction->from->last_seen = data->now >> TICK;
	struct traffic *forwarded = map_lookup(&FORWARDED, &family);
	if (forwarded && data->vni) {
		forwarded->packets += packets;
		forwarded->bytes += packet->payload;
	}
	if (data->start)
		time_sample(data->start);
	return send_on(exit, &direction->client);
}

INLINE int forward4(struct __sk_buff *skb, const struct packet *packet, struct scratch *scratch,
		    const struct config *config, const struct data *data)
{
	struct session4 *entry = map_lookup(&SESSIONS4, &data->vni);
	if (!entry) {
		if (map_lookup(&SESSIONS6, &data->vni))
			return pass_local(packet, PASS_SOCKET_SESSION);
		return unknown(scratch, config, packet, data->vni, data->now);
	}
	struct session *session = &entry->session;
	struct direction direction = { .client.word[2] = BE32(0xffff) };
	be32 source = packet->source.word[3];
	be16 port = packet->udp.source;
	if (session->legs[0].port == port && entry->address[0] == source) {
		direction.client.word[3] = entry->address[1];
		from_first(&direction, session);
	} else if (session->legs[1].port == port && entry->address[1] == source) {
		direction.client.word[3] = entry->address[0];
		from_second(&direction, session);
	} else {
		return pass_local(packet, PASS_NOT_A_LEG);
	}
	return relay(skb, IPV4, packet, config, data, session, &direction);
}

INLINE int forward6(struct __sk_buff *skb, const struct packet *packet, struct scratch *scratch,
		    const struct config *config, const struct data *data)
{
	struct session6 *entry = map_lookup(&SESSIONS6, &data->vni);
	if (!entry) {
		if (map_lookup(&SESSIONS4, &data->vni))
			return pass_local(packet, PASS_NOT_A_LEG);
		return unknown(scratch, config, packet, data->vni, data->now);
	}
	struct session *session = &entry->session;
	struct direction direction;
	be16 port = packet->udp.source;
	if (session->legs[0].port == port && same(&entry->address[0], &packet->source)) {
		direction.client = entry->address[1];
		from_first(&direction, session);
	} else if (session->legs[1].port == port && same(&entry->address[1], &packet->source)) {
		direction.client = entry->address[0];
		from_second(&direction, session);
	} else {
		return pass_local(packet, PASS_NOT_A_LEG);
	}
	return relay(skb, IPV6, packet, config, data, session, &direction);
}

INLINE int forward(struct __sk_buff *skb, const struct packet *packet, struct scratch *scratch,
		   const struct config *config)
{
	struct data data = {
		.start = scratch->seen++ % SAMPLE ? 0 : time_ns(),
		.now = coarse_time_ns(),
	};
	if (data.now >= config->valid_until)
		return pass(PASS_NOT_RENEWED);
	const be32 *header = packet->geneve;
	if (packet->payload < GENEVE_LEN || header[0] & BE32(0xc0000000))
		return pass_local(packet, PASS_MALFORMED);
	data.vni = BE32(header[1]) >> 8;
	if (header[0] & BE32(0x00800000)) {
		// VNI 0 is that of probes. What GRO has joined may be of several sessions.
		if (!data.vni || packet->segment < packet->payload)
			return pass_local(packet, PASS_CONTROL);
		if (is_known(config, data.vni))
			return handshake(scratch, packet, data.now);
		return unknown(scratch, config, packet, data.vni, data.now);
	}
	if (packet->segment < packet->payload) {
		u64 first;
		__builtin_memcpy(&first, packet->geneve, sizeof(first));
		if (!is_uniform(skb, packet->udp_at + UDP_LEN, packet->segment, first & SAME))
			return pass_local(packet, PASS_MIXED);
	}
	if (packet->family == IPV4)
		return forward4(skb, packet, scratch, config, &data);
	return forward6(skb, packet, scratch, config, &data);
}

// All headers; where the payload has no whole Geneve header, the others and zeros.
INLINE long read(const struct __sk_buff *skb, void *headers, u32 len)
{
	if (!load_bytes(skb, ETHERNET, headers, len))
		return 0;
	return load_bytes(skb, ETHERNET, headers, len - GENEVE_LEN);
}

SEC("classifier")
int peerrelay(struct __sk_buff *skb)
{
	struct packet packet = {};
	u32 zero = 0, fragment = 0, len;

	if (skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return NEXT;
	if (skb->protocol == BE16(0x0800)) {
		struct headers4 headers;
		const struct ipv4 *ip = &headers.ip;
		// With options, or without ports: not for here.
		if (read(skb, &headers, sizeof(headers)) || ip->protocol != PROTOCOL_UDP ||
		    ip->version_ihl != 0x45 || ip->fragment & BE16(0x1fff))
			return NEXT;
		fragment = ip->fragment & BE16(0x2000);
		packet.source.word[2] = packet.destination.word[2] = BE32(0xffff);
		packet.source.word[3] = ip->source;
		packet.destination.word[3] = ip->destination;
		packet.family = IPV4;
		packet.udp_at = ETHERNET + IPV4_LEN;
		packet.ttl = ip->ttl;
		packet.ipv4_check = ip->check;
		packet.udp = headers.udp;
		packet.geneve[0] = headers.geneve[0];
		packet.geneve[1] = headers.geneve[1];
		len = BE16(ip->total_len);
	} else if (skb->protocol == BE16(0x86dd)) {
		struct headers6 headers;
		const struct ipv6 *ip = &headers.ip;
		if (read(skb, &headers, sizeof(headers)) || ip->next_header != PROTOCOL_UDP ||
		    ip->version_class >> 4 != 6)
			return NEXT;
		packet.source = ip->source;
		packet.destination = ip->destination;
		packet.family = IPV6;
		packet.udp_at = ETHERNET + IPV6_LEN;
		packet.ttl = ip->hop_limit;
		packet.udp = headers.udp;
		packet.geneve[0] = headers.geneve[0];
		packet.geneve[1] = headers.geneve[1];
		len = IPV6_LEN + BE16(ip->payload_len);
	} else {
		return NEXT;
	}
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
