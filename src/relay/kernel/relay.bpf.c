// The relay's fast path: forwards data of open sessions where packets enter the host, before any other
// part of the kernel reads them. It forwards a datagram only if the protocol core would; all others go
// on to the socket, where the core decides. `maps.bpf.h` has the maps that both use.
#include "maps.bpf.h"

enum { PROTOCOL_UDP = 17, PACKET_HOST = 0 };
enum { ETHERNET = 14, IPV4_LEN = 20, IPV6_LEN = 40, UDP_LEN = 8, GENEVE_LEN = 8 };
// Most segments of a super-packet (UDP_MAX_SEGMENTS).
enum { SEGMENTS = 128 };
// Unknown VNIs that one CPU lets through in a window of 2^27 ns (134 ms).
enum { WINDOW = 27, UNKNOWN_MOST = 256 };
// Handshake messages of known VNIs that one CPU lets through in a window.
enum { HANDSHAKES_MOST = 8192 };
// One datagram in this many is timed, on each CPU.
enum { SAMPLE = 256 };
// Protocols in Geneve headers, of handshakes and of data.
enum { GENEVE_DISCO = 0x7a11, GENEVE_WIREGUARD = 0x7a12 };
// Bits of a Geneve header that all datagrams of a session have in common: version, control bit and VNI.
#define SAME BE64(0xc0800000ffffff00ull)
// A tick of `struct leg`.
enum { TICK = 26 };

// Counters are looked up, never indexed: without CAP_PERFMON the verifier rejects a pointer that differs
// by the path that led to it.
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

INLINE u32 segments(const struct packet *packet)
{
	return (packet->payload + packet->segment - 1) / packet->segment;
}

INLINE int is_local(const struct packet *packet)
{
	return map_lookup(&LOCALS, &packet->destination) != 0;
}

// Hands a datagram to the sockets. It is counted for the reason only if it is addressed to this host.
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

// Returns whether the Geneve headers of all segments begin like the first: GRO joins datagrams of
// equal length between the same two addresses and ports, whatever their VNI. This is a function of its
// own, so that it has all registers, and its loop is unrolled: without CAP_PERFMON the verifier also walks
// the mispredicted paths through a loop, and gives up.
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
	// False when there is more behind the last segment that was read: what was not seen is not uniform.
	return at + segment >= skb->len;
}

INLINE int is_known(const struct scratch *scratch)
{
	const struct config *config = map_lookup(&CONFIG, &scratch->zero);
	u32 vni = scratch->packet.vni;
	u32 word = config ? vni >> 6 & config->known_mask : 0;
	const u64 *bits = map_lookup(&KNOWN, &word);
	return bits && *bits >> (vni & 63) & 1;
}

INLINE void turn_window(struct scratch *scratch)
{
	u64 window = scratch->packet.now >> WINDOW;
	if (scratch->window != window) {
		scratch->window = window;
		scratch->unknown_count = 0;
		scratch->handshake_count = 0;
	}
}

// Returns whether a Geneve header has a protocol of relays. Any program of this host may have a flow on the
// relay's port: masquerading chooses source ports without asking which sockets have them. Its datagrams must
// reach it at any rate, and the sockets never see them.
INLINE int is_for_relays(const struct packet *packet)
{
	u32 protocol = BE32(packet->geneve[0]) & 0xffff;
	return protocol == GENEVE_DISCO || protocol == GENEVE_WIREGUARD;
}

// Records that a datagram has come here with these addresses.
INLINE void record_sighting(struct scratch *scratch)
{
	struct sighting *seen = &scratch->sighting;
	const struct packet *packet = &scratch->packet;
	seen->vni = packet->vni;
	seen->port = packet->udp.source;
	seen->client = packet->source;
	seen->local = packet->destination;
	// A lookup takes no lock, and marks the entry as used.
	if (!map_lookup(&SIGHTINGS, seen))
		map_update(&SIGHTINGS, seen, &scratch->zero, 0);
}

// Hands a handshake to the sockets, up to a number for each window: whoever has seen a handshake can
// send it again from anywhere. A thread answers 1,342 in the time of a window, and HANDSHAKES_MOST when
// it was idle before.
INLINE int handshake(struct scratch *scratch)
{
	// Before anything is counted against the window: packets that are routed or bridged to another host do
	// not concern this relay, and must not be dropped.
	if (!is_local(&scratch->packet))
		return pass(PASS_NOT_LOCAL);
	turn_window(scratch);
	if (scratch->handshake_count >= HANDSHAKES_MOST) {
		count(DROPPED_BUSY, 1);
		return DROP;
	}
	scratch->handshake_count++;
	record_sighting(scratch);
	return pass(PASS_CONTROL);
}

// Counts unknown VNIs on each CPU, so that a flood of numbers that name no session ends here.
INLINE int unknown(struct scratch *scratch)
{
	if (!is_local(&scratch->packet))
		return pass(PASS_NOT_LOCAL);
	turn_window(scratch);
	if (scratch->unknown_count >= UNKNOWN_MOST && !is_known(scratch)) {
		count(DROPPED_UNKNOWN, 1);
		return DROP;
	}
	scratch->unknown_count++;
	return pass(PASS_UNKNOWN_VNI);
}

// Data of no session that the program knows.
INLINE int unknown_data(struct scratch *scratch)
{
	if (!is_for_relays(&scratch->packet))
		return pass_local(&scratch->packet, PASS_MALFORMED);
	return unknown(scratch);
}

INLINE u64 cost(const struct rate_limit *limit, u32 bytes)
{
	return bytes * 1000000000ull / limit->bytes_per_second;
}

INLINE int has_room(const struct rate_limit *limit, const u64 *tat, u64 cost, u64 now)
{
	// A TAT that has passed counts as now, so that a long pause earns no more than the burst.
	u64 from = *tat > now ? *tat : now;
	return from + cost - now <= limit->burst;
}

// Adds the cost of a datagram. CPUs that meet here each let one datagram too many through, and its cost
// is counted all the same. The plain write may lose what another CPU adds at that moment, but only
// where the limit has not been reached for a while.
INLINE void charge(u64 *tat, u64 cost, u64 now)
{
	if (*tat < now)
		*tat = now;
	__sync_fetch_and_add(tat, cost);
}

// Takes data into account, and returns 0, if it is within the limits of its session and of the relay;
// otherwise returns the counter of the drop.
INLINE u32 above_limit(const struct scratch *scratch, struct session *session)
{
	const struct config *config = map_lookup(&CONFIG, &scratch->zero);
	u32 bytes = scratch->packet.payload;
	u64 now = scratch->packet.now;
	u64 of_session = 0, *tat;
	// The self-test has VNI 0, and no limit.
	if (!config || !scratch->packet.vni)
		return 0;
	if (config->session.bytes_per_second) {
		of_session = cost(&config->session, bytes);
		if (!has_room(&config->session, &session->tat, of_session, now))
			return DROPPED_SESSION_RATE;
	}
	if (config->relay.bytes_per_second && (tat = map_lookup(&DEBT, &scratch->zero))) {
		u64 of_relay = cost(&config->relay, bytes);
		// Nothing is charged yet: what the relay refuses must not use up the share of its session.
		if (!has_room(&config->relay, tat, of_relay, now))
			return DROPPED_RELAY_RATE;
		charge(tat, of_relay, now);
	}
	if (of_session)
		charge(&session->tat, of_session, now);
	return 0;
}

// Writes the new addresses and ports with their checksums. Addresses and ports are replaced apart:
// a checksum that hardware completes (CHECKSUM_PARTIAL) covers only the pseudo header so far, in which the
// ports are not.
INLINE int rewrite(struct __sk_buff *skb, u32 family, struct scratch *scratch)
{
	const struct packet *packet = &scratch->packet;
	u32 addresses = fold32((u64)address_difference(family, &packet->source, &packet->client) +
			       address_difference(family, &packet->destination, &packet->hears_from));
	// The local port stays, and only changes its place in the header, which changes no sum: the relay
	// answers from the port to which the datagram came.
	u32 ports = (u32)packet->client_port + (u16)~packet->udp.source;
	u32 check_at = packet->udp_at + 6;

	if (family == IPV4) {
		struct changes4 *to = &scratch->changes4;
		// The TTL falls by one, so this word of the header falls by 0x0100.
		u32 sum = (u16)~packet->ipv4_check + (u32)(u16)~BE16(0x0100);
		to->ttl = packet->ttl - 1;
		to->protocol = PROTOCOL_UDP;
		to->check = ~fold16(sum + fold16(addresses));
		to->source = packet->hears_from.word[3];
		to->destination = packet->client.word[3];
		to->ports[0] = packet->udp.destination;
		to->ports[1] = packet->client_port;
	} else {
		struct changes6 *to = &scratch->changes6;
		to->hop_limit = packet->ttl - 1;
		to->source = packet->hears_from;
		to->destination = packet->client;
		to->ports[0] = packet->udp.destination;
		to->ports[1] = packet->client_port;
	}
	// With MANGLED_ZERO the kernel sends all ones where the sum is zero, which would mean that there is
	// none.
	if (l4_checksum_replace(skb, check_at, 0, addresses, PSEUDO_HEADER | MANGLED_ZERO) ||
	    l4_checksum_replace(skb, check_at, 0, ports, MANGLED_ZERO))
		return -1;
	if (family == IPV4)
		// One store for all fields, as each call of the helper checks first that the packet may be
		// written.
		return store_bytes(skb, ETHERNET + 8, &scratch->changes4,
				   sizeof(scratch->changes4), 0);
	return store_bytes(skb, ETHERNET + 7, &scratch->changes6.hop_limit,
			   sizeof(scratch->changes6) - 3, 0);
}

// Sets the device and the neighbour to which the packet goes. The relay looked up the route when it made
// the entry: a lookup for each packet would cost as much as the rest of the program.
INLINE void set_hop(struct scratch *scratch, const struct egress *egress)
{
	struct next_hop *hop = &scratch->hop;
	const struct address *client = &scratch->packet.client, *router = &egress->gateway;
	be32 first = router->word[0], second = router->word[1], third = router->word[2],
	     last = router->word[3];
	if (!(first | second | third | last)) {
		first = client->word[0];
		second = client->word[1];
		third = client->word[2];
		last = client->word[3];
	}
	// The router decides, not the client: an IPv4 client may be behind an IPv6 router (RFC 8950).
	int four = !first && !second && third == BE32(0xffff);
	scratch->packet.ifindex = egress->ifindex;
	hop->family = four ? INTERNET : INTERNET6;
	hop->address[0] = four ? last : first;
	hop->address[1] = second;
	hop->address[2] = third;
	hop->address[3] = last;
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

// Finds the key of the address of this host to which a datagram was sent. Mostly it is the one through
// which the client has bound, and comparing that one is cheaper than a lookup by address.
INLINE int find_local(struct packet *packet, const struct leg *from)
{
	packet->egress = from->egress;
	const struct egress *egress = map_lookup(&EXITS, &packet->egress);
	if (egress) {
		packet->local = egress->local;
		const struct address *bound = map_lookup(&ADDRESSES, &packet->local);
		if (bound && same(bound, &packet->destination))
			return 1;
	}
	const u32 *found = map_lookup(&LOCALS, &packet->destination);
	if (!found)
		return 0;
	packet->local = *found;
	return 1;
}

// Chooses the source address: the one through which the client has bound. Returns 0 while this host does
// not have it. The way out belongs to that address, and no datagram with another one may leave there.
INLINE int find_source(struct packet *packet, const struct egress *egress)
{
	packet->hears_from = packet->destination;
	if (!egress->local || egress->local == packet->local)
		return 1;
	const struct address *bound = map_lookup(&ADDRESSES, &egress->local);
	if (!bound || !(bound->word[0] | bound->word[1] | bound->word[2] | bound->word[3]))
		return 0;
	packet->hears_from = *bound;
	return 1;
}

INLINE int relay(struct __sk_buff *skb, u32 family, struct scratch *scratch,
		 struct session *session, struct leg *from, const struct leg *to)
{
	struct packet *packet = &scratch->packet;
	packet->client_port = to->port;
	packet->mtu = to->mtu;
	u32 egress_key = to->egress;
	if (!find_local(packet, from))
		return pass(PASS_NOT_LOCAL);
	if (!packet->mtu) {
		// The relay may not know yet that this host does not translate the leg's addresses.
		record_sighting(scratch);
		return pass(PASS_SOCKET_SESSION);
	}
	// A checksum of zero means that there is none (RFC 768). The fast path cannot update it.
	if (!packet->udp.check)
		return pass(PASS_NO_CHECKSUM);
	if (packet->ttl <= 1)
		return pass(PASS_TTL);
	if (packet->udp_at - ETHERNET + UDP_LEN + packet->segment > packet->mtu)
		return pass(PASS_MTU);
	packet->egress = egress_key;
	const struct egress *egress = map_lookup(&EXITS, &packet->egress);
	if (!egress)
		return pass(PASS_ERROR);
	if (!find_source(packet, egress))
		return pass(PASS_SOCKET_SESSION);
	// After all checks that pass the packet on: the core charges what the sockets forward to the same
	// limit.
	u32 limit = above_limit(scratch, session);
	if (limit) {
		count(limit, segments(packet));
		return DROP;
	}
	set_hop(scratch, egress);
	if (rewrite(skb, family, scratch))
		return pass(PASS_ERROR);

	u32 packets = segments(packet);
	__sync_fetch_and_add(&from->heard.packets, packets);
	__sync_fetch_and_add(&from->heard.bytes, packet->payload);
	// A plain write: CPUs that meet here write the same tick, or the one before.
	from->last_seen = packet->now >> TICK;
	struct traffic *forwarded = map_lookup(&FORWARDED, &packet->family);
	// The datagrams of the self-test (VNI 0) are no traffic.
	if (forwarded && packet->vni) {
		forwarded->packets += packets;
		forwarded->bytes += packet->payload;
	}
	if (packet->start)
		time_sample(packet->start);
	return redirect_neighbour(packet->ifindex, &scratch->hop, sizeof(scratch->hop), 0);
}

INLINE int forward4(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	struct session4 *entry = map_lookup(&SESSIONS4, &packet->vni);
	if (!entry) {
		// An IPv4 datagram of a session with a leg on IPv6, which this program does not translate: the
		// kernel cannot change the protocol of a super-packet (`bpf_skb_change_proto`).
		if (map_lookup(&SESSIONS6, &packet->vni))
			return pass_local(packet, PASS_SOCKET_SESSION);
		return unknown_data(scratch);
	}
	struct leg *from, *to;
	be32 source = packet->source.word[3];
	be16 port = packet->udp.source;
	packet->client.word[0] = packet->client.word[1] = 0;
	packet->client.word[2] = BE32(0xffff);
	if (entry->session.legs[0].port == port && entry->address[0] == source) {
		packet->client.word[3] = entry->address[1];
		from = &entry->session.legs[0];
		to = &entry->session.legs[1];
		APART("first of IPv4", from, to);
	} else if (entry->session.legs[1].port == port && entry->address[1] == source) {
		packet->client.word[3] = entry->address[0];
		from = &entry->session.legs[1];
		to = &entry->session.legs[0];
		APART("second of IPv4", from, to);
	} else {
		return pass_local(packet, PASS_NOT_A_LEG);
	}
	return relay(skb, IPV4, scratch, &entry->session, from, to);
}

INLINE int forward6(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	struct session6 *entry = map_lookup(&SESSIONS6, &packet->vni);
	if (!entry) {
		if (map_lookup(&SESSIONS4, &packet->vni))
			return pass_local(packet, PASS_NOT_A_LEG);
		return unknown_data(scratch);
	}
	struct leg *from, *to;
	be16 port = packet->udp.source;
	if (entry->session.legs[0].port == port && same(&entry->address[0], &packet->source)) {
		packet->client = entry->address[1];
		from = &entry->session.legs[0];
		to = &entry->session.legs[1];
		APART("first of IPv6", from, to);
	} else if (entry->session.legs[1].port == port && same(&entry->address[1], &packet->source)) {
		packet->client = entry->address[0];
		from = &entry->session.legs[1];
		to = &entry->session.legs[0];
		APART("second of IPv6", from, to);
	} else {
		return pass_local(packet, PASS_NOT_A_LEG);
	}
	return relay(skb, IPV6, scratch, &entry->session, from, to);
}

INLINE int forward(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	const be32 *header = packet->geneve;
	// As in the core, the option length is not looked at.
	if (packet->payload < GENEVE_LEN || header[0] & BE32(0xc0000000))
		return pass_local(packet, PASS_MALFORMED);
	packet->vni = BE32(header[1]) >> 8;
	if (header[0] & BE32(0x00800000)) {
		// Probes have VNI 0. Datagrams that GRO has joined may be of several sessions.
		if (!packet->vni || packet->segment < packet->payload)
			return pass_local(packet, PASS_CONTROL);
		if (!is_for_relays(packet))
			return pass_local(packet, PASS_MALFORMED);
		if (is_known(scratch))
			return handshake(scratch);
		return unknown(scratch);
	}
	if (packet->segment < packet->payload) {
		u64 first;
		__builtin_memcpy(&first, packet->geneve, sizeof(first));
		if (!is_uniform(skb, packet->udp_at + UDP_LEN, packet->segment, first & SAME))
			return pass_local(packet, PASS_MIXED);
	}
	return packet->family == IPV4 ? forward4(skb, scratch) : forward6(skb, scratch);
}

// Loads all headers. Where the payload has no whole Geneve header, loads the others and leaves zeros.
INLINE long read(const struct __sk_buff *skb, void *headers, u32 len)
{
	if (!load_bytes(skb, ETHERNET, headers, len))
		return 0;
	return load_bytes(skb, ETHERNET, headers, len - GENEVE_LEN);
}

// Reads IP and UDP headers; returns whether the packet has both.
INLINE int read4(struct __sk_buff *skb, struct scratch *scratch, u32 *len)
{
	struct packet *packet = &scratch->packet;
	const struct ipv4 *ip = &scratch->headers4.ip;
	// A header with options, or a fragment without ports, is left to the sockets.
	if (read(skb, &scratch->headers4, sizeof(scratch->headers4)) ||
	    ip->protocol != PROTOCOL_UDP || ip->version_ihl != 0x45 || ip->fragment & BE16(0x1fff))
		return 0;
	packet->source.word[0] = packet->source.word[1] = 0;
	packet->source.word[2] = BE32(0xffff);
	packet->source.word[3] = ip->source;
	packet->destination.word[0] = packet->destination.word[1] = 0;
	packet->destination.word[2] = BE32(0xffff);
	packet->destination.word[3] = ip->destination;
	packet->family = IPV4;
	packet->udp_at = ETHERNET + IPV4_LEN;
	packet->ttl = ip->ttl;
	packet->ipv4_check = ip->check;
	packet->udp = scratch->headers4.udp;
	packet->geneve[0] = scratch->headers4.geneve[0];
	packet->geneve[1] = scratch->headers4.geneve[1];
	*len = BE16(ip->total_len);
	return 1;
}

INLINE int read6(struct __sk_buff *skb, struct scratch *scratch, u32 *len)
{
	struct packet *packet = &scratch->packet;
	const struct ipv6 *ip = &scratch->headers6.ip;
	if (read(skb, &scratch->headers6, sizeof(scratch->headers6)) ||
	    ip->next_header != PROTOCOL_UDP || ip->version_class >> 4 != 6)
		return 0;
	packet->source = ip->source;
	packet->destination = ip->destination;
	packet->family = IPV6;
	packet->udp_at = ETHERNET + IPV6_LEN;
	packet->ttl = ip->hop_limit;
	packet->udp = scratch->headers6.udp;
	packet->geneve[0] = scratch->headers6.geneve[0];
	packet->geneve[1] = scratch->headers6.geneve[1];
	*len = IPV6_LEN + BE16(ip->payload_len);
	return 1;
}

INLINE int decide(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	u32 len;
	if (skb->protocol == BE16(0x0800)) {
		if (!read4(skb, scratch, &len))
			return NEXT;
	} else {
		if (!read6(skb, scratch, &len))
			return NEXT;
	}
	const struct config *config = map_lookup(&CONFIG, &scratch->zero);
	// From here on the packet may be the relay's, and is counted. Everything else that enters the host
	// has left the program above.
	if (!config || !config->port || packet->udp.destination != config->port)
		return NEXT;
	if (packet->family == IPV4 && scratch->headers4.ip.fragment & BE16(0x2000))
		return pass(PASS_FRAGMENT);
	// Padding and disagreeing lengths are for the stack to sort out.
	if (skb->len != ETHERNET + len || ETHERNET + len - packet->udp_at != BE16(packet->udp.len) ||
	    BE16(packet->udp.len) < UDP_LEN)
		return pass(PASS_MALFORMED);
	packet->payload = BE16(packet->udp.len) - UDP_LEN;
	// GRO has written the lengths of the whole super-packet into the headers; this is the payload of one
	// datagram.
	packet->segment = skb->gso_size ? skb->gso_size : packet->payload;
	packet->start = scratch->seen++ % SAMPLE ? 0 : time_ns();
	// The clock of the last timer tick is exact enough for limits and silence, and costs no read of the
	// hardware.
	packet->now = coarse_time_ns();
	if (packet->now >= config->valid_until)
		return pass(PASS_NOT_RENEWED);
	return forward(skb, scratch);
}

SEC("classifier")
int peerrelay(struct __sk_buff *skb)
{
	u32 zero = 0;

	// A packet with a VLAN tag comes again at the ingress of its VLAN device, without the tag. Packets for
	// other stations are seen by bridges and in promiscuous mode.
	if (skb->vlan_present || skb->pkt_type != PACKET_HOST ||
	    (skb->protocol != BE16(0x0800) && skb->protocol != BE16(0x86dd)))
		return NEXT;
	struct scratch *scratch = map_lookup(&SCRATCH, &zero);
	// The self-test runs with interrupts on, and PREEMPT_RT preempts programs.
	if (!scratch || scratch->busy)
		return NEXT;
	scratch->busy = 1;
	int verdict = decide(skb, scratch);
	scratch->busy = 0;
	return verdict;
}

char LICENSE[] SEC("license") = "Apache-2.0";
