// The part of the kernel's BPF interface that the program uses: all of it is stable ABI
// (linux/bpf.h, bpf-helpers(7)), and stands here so that clang is all it takes to build.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 be16;
typedef u32 be32;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define OWN static __attribute__((noinline))
// Keeps clang from making one of branches that end with this, with computed offsets, which the verifier
// refuses without CAP_PERFMON; no two have the same name.
#define APART(name, a, b) asm volatile("// " name : "+r"(a), "+r"(b))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BE16(x) ((be16)__builtin_bswap16(x))
#define BE32(x) ((be32)__builtin_bswap32(x))
#define BE64(x) __builtin_bswap64(x)
#else
#define BE16(x) ((be16)(x))
#define BE32(x) ((be32)(x))
#define BE64(x) (x)
#endif

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_LRU_HASH = 9 };
enum { NO_PREALLOC = 1, MMAPABLE = 1 << 10 };

struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
	u64 sk;
	u32 gso_size;
};

// Verdicts: on to the next program and then the stack, and the two that end here.
enum { NEXT = -1, DROP = 2 };

enum { PSEUDO_HEADER = 1 << 4, MANGLED_ZERO = 1 << 5 };

// `struct bpf_redir_neigh`: the neighbour to which a packet is redirected.
struct next_hop {
	u32 family;
	be32 address[4];
};

// AF_INET and AF_INET6.
enum { INTERNET = 2, INTERNET6 = 10 };

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value,
			       u64 flags) = (void *)2;
static u64 (*const time_ns)(void) = (void *)5;
static long (*const store_bytes)(struct __sk_buff *, u32 offset, const void *from, u32 len,
				 u64 flags) = (void *)9;
static long (*const l4_checksum_replace)(struct __sk_buff *, u32 offset, u64 from, u64 to,
					 u64 flags) = (void *)11;
static long (*const load_bytes)(const struct __sk_buff *, u32 offset, void *to,
				u32 len) = (void *)26;
static long (*const redirect_neighbour)(u32 ifindex, struct next_hop *hop, int len,
					u64 flags) = (void *)152;
static u64 (*const coarse_time_ns)(void) = (void *)160;
