//! Assignment of relays to regions, one after the other.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
};

use super::{Choice, Request, score};

/// Regions and the nodes that are assigned to them so far.
pub(super) struct Filling<'a> {
    regions: Vec<Region<'a>>,
    /// Nodes that an exclusive region gave up for another region, which took a different node.
    given_up: BTreeSet<&'a str>,
}

/// Nodes that are assigned to one region so far.
struct Region<'a> {
    request: &'a Request,
    /// Nodes whose relay stays.
    kept: BTreeSet<&'a str>,
    /// Nodes that get a relay, in the order of assignment.
    started: Vec<&'a str>,
    /// Nodes that get a relay when the relay of another region has ended.
    awaited: Vec<&'a str>,
    /// Nodes on which a new relay may run, assigned or not.
    possible: HashSet<&'a str>,
    /// Free candidates by zone, with their scores.
    free: BTreeMap<&'a str, BTreeSet<(u64, &'a str)>>,
    /// Zone of each candidate.
    zones: BTreeMap<&'a str, &'a str>,
    /// Relays of the region in each zone.
    per_zone: BTreeMap<&'a str, usize>,
}

impl<'a> Filling<'a> {
    /// Begins with the relays that run.
    pub(super) fn new(requests: &'a [Request]) -> Self {
        let mut regions: Vec<_> = requests.iter().map(Region::new).collect();
        for (at, region) in regions.iter_mut().enumerate() {
            for (other, request) in requests.iter().enumerate() {
                if other != at && request.exclusive && region.request.exclusive {
                    let occupied = request.running.iter().map(String::as_str);
                    occupied.for_each(|node| region.occupy(node));
                }
            }
        }
        Self {
            regions,
            given_up: BTreeSet::new(),
        }
    }

    /// Assigns relays to the region with the fewest until there are `allowance` in total.
    pub(super) fn fill(&mut self, allowance: usize) {
        let mut total: usize = self.regions.iter().map(Region::count).sum();
        let mut complete = vec![false; self.regions.len()];
        while total < allowance {
            let open = (0..self.regions.len())
                .filter(|at| !complete[*at] && self.regions[*at].count() < self.regions[*at].cap());
            let Some(poorest) = open.min_by_key(|at| self.regions[*at].count()) else {
                break;
            };
            match self.extend(poorest) {
                true => total += 1,
                // Nodes are never freed again, so no later attempt succeeds.
                false => complete[poorest] = true,
            }
        }
    }

    /// Assigns a node to region `to`. If no node is free, other regions change to different nodes:
    /// the shortest augmenting path of a bipartite matching.
    fn extend(&mut self, to: usize) -> bool {
        let mut from = BTreeMap::<usize, (usize, &'a str)>::new();
        let mut queue = VecDeque::from([to]);
        while let Some(at) = queue.pop_front() {
            if let Some(node) = self.regions[at].best_free() {
                self.take(at, node);
                let mut at = at;
                while let Some(&(before, node)) = from.get(&at) {
                    self.regions[at].give(node);
                    self.regions[before].get(node);
                    at = before;
                }
                return true;
            }
            if !self.regions[at].request.exclusive {
                continue;
            }
            for (other, region) in self.regions.iter().enumerate() {
                if other == to || from.contains_key(&other) || !region.request.exclusive {
                    continue;
                }
                let possible = &self.regions[at].possible;
                if let Some(node) = region.started.iter().find(|node| possible.contains(*node)) {
                    from.insert(other, (at, node));
                    queue.push_back(other);
                }
            }
        }
        false
    }

    /// Moves relays from other regions to regions without any relay. Returns whether a relay moved.
    pub(super) fn hand_over(&mut self, allowance: usize) -> bool {
        let mut any = false;
        let total: usize = self.regions.iter().map(Region::count).sum();
        for to in 0..self.regions.len() {
            while self.regions[to].request.running.is_empty()
                && self.regions[to].count() < self.regions[to].cap()
            {
                let Some((giver, node, taken)) = self.giver(to, total >= allowance) else {
                    break;
                };
                self.regions[giver].lose(node);
                if self.regions[giver].request.exclusive {
                    self.given_up.insert(node);
                }
                self.given_up.remove(taken);
                match self.regions[to].request.exclusive {
                    true => self.occupy(taken),
                    false => self.regions[to].occupy(taken),
                }
                self.regions[to].awaited.push(taken);
                any = true;
            }
        }
        any
    }

    /// Returns a region with at least two relays more than `to`, the node that it gives up, and the
    /// node that `to` gets. If the total is `tight`, `to` may get another node than the one given
    /// up: a free one, or one that was given up before and not taken.
    fn giver(&self, to: usize, tight: bool) -> Option<(usize, &'a str, &'a str)> {
        let receiver = &self.regions[to];
        let vacant = || {
            let fits = |node: &&&str| receiver.possible.contains(**node);
            self.given_up.iter().find(fits).copied()
        };
        let free = receiver.best_free().or_else(vacant).filter(|_| tight);
        let mut richer: Vec<_> = (0..self.regions.len())
            .filter(|at| self.regions[*at].count() >= receiver.count() + 2)
            .collect();
        richer.sort_by_key(|at| Reverse(self.regions[*at].count()));
        richer.into_iter().find_map(|at| {
            let region = &self.regions[at];
            if let Some(free) = free {
                return Some((at, region.least_wanted(|_| true)?, free));
            }
            let meet = region.request.exclusive && receiver.request.exclusive;
            let node = region.least_wanted(|n| meet && receiver.possible.contains(n))?;
            Some((at, node, node))
        })
    }

    fn take(&mut self, at: usize, node: &'a str) {
        match self.regions[at].request.exclusive {
            true => self.occupy(node),
            false => self.regions[at].occupy(node),
        }
        self.regions[at].get(node);
    }

    /// Makes a node that an exclusive region takes unavailable to all exclusive regions.
    fn occupy(&mut self, node: &'a str) {
        let regions = self.regions.iter_mut();
        for region in regions.filter(|region| region.request.exclusive) {
            region.occupy(node);
        }
    }

    /// Finishes the assignment, and adds the nodes that each region would get without a total.
    pub(super) fn into_choices(mut self) -> Vec<Choice> {
        let given: Vec<usize> = self.regions.iter().map(|r| r.started.len()).collect();
        let mut open: BTreeSet<(usize, usize)> = (self.regions.iter().enumerate())
            .map(|(at, region)| (region.count(), at))
            .collect();
        while let Some((count, at)) = open.pop_first() {
            let node = self.regions[at].best_free();
            if let Some(node) = node.filter(|_| count < self.regions[at].request.most) {
                self.take(at, node);
                open.insert((count + 1, at));
            }
        }
        let regions = self.regions.into_iter().zip(given);
        regions
            .map(|(region, given)| {
                let owned = |nodes: &[&str]| nodes.iter().map(|n| (*n).to_owned()).collect();
                Choice {
                    stay: region.kept.iter().map(|n| (*n).to_owned()).collect(),
                    start: owned(&region.started[..given]),
                    awaited: owned(&region.awaited),
                    excess: owned(&region.started[given..]),
                }
            })
            .collect()
    }
}

impl<'a> Region<'a> {
    fn new(request: &'a Request) -> Self {
        let mut region = Self {
            request,
            kept: BTreeSet::new(),
            started: Vec::new(),
            awaited: Vec::new(),
            possible: HashSet::new(),
            free: BTreeMap::new(),
            zones: BTreeMap::new(),
            per_zone: BTreeMap::new(),
        };
        for candidate in &request.candidates {
            let (name, zone) = (&*candidate.name, &*candidate.zone);
            region.zones.insert(name, zone);
            if request.running.contains(name) {
                region.kept.insert(name);
                *region.per_zone.entry(zone).or_default() += 1;
            } else if candidate.open {
                region.possible.insert(name);
                let scored = (score(&request.key, name), name);
                region.free.entry(zone).or_default().insert(scored);
            }
        }
        while region.kept.len() > request.most {
            let Some(node) = region.least_wanted(|_| true) else {
                break;
            };
            region.lose(node);
        }
        region
    }

    fn count(&self) -> usize {
        self.kept.len() + self.started.len() + self.awaited.len()
    }

    /// Number of relays above which the region gets no further one.
    fn cap(&self) -> usize {
        self.request.most.min(self.request.cap)
    }

    fn zone(&self, node: &str) -> &'a str {
        self.zones.get(node).copied().unwrap_or_default()
    }

    fn relays_in(&self, zone: &str) -> usize {
        self.per_zone.get(zone).copied().unwrap_or(0)
    }

    /// Returns the free node with the highest score in the zone with the fewest relays.
    fn best_free(&self) -> Option<&'a str> {
        let zones = self.free.iter().filter(|(_, nodes)| !nodes.is_empty());
        let key = &self.request.key;
        let (_, nodes) =
            zones.min_by_key(|(zone, _)| (self.relays_in(zone), Reverse(score(key, zone))))?;
        nodes.last().map(|(_, node)| *node)
    }

    /// Returns the `eligible` node that the region gives up first: in the zone with the most
    /// relays.
    fn least_wanted(&self, eligible: impl Fn(&str) -> bool) -> Option<&'a str> {
        let key = &self.request.key;
        let kept = self.kept.iter().filter(|node| eligible(node));
        kept.min_by_key(|node| {
            let zone = self.zone(node);
            let fullest = Reverse(self.relays_in(zone));
            (fullest, score(key, zone), score(key, node))
        })
        .copied()
    }

    /// Makes `node` unavailable.
    fn occupy(&mut self, node: &'a str) {
        let scored = (score(&self.request.key, node), node);
        if let Some(nodes) = self.free.get_mut(self.zone(node)) {
            nodes.remove(&scored);
        }
    }

    fn get(&mut self, node: &'a str) {
        self.started.push(node);
        *self.per_zone.entry(self.zone(node)).or_default() += 1;
    }

    fn give(&mut self, node: &str) {
        self.started.retain(|started| *started != node);
        self.leave(node);
    }

    fn lose(&mut self, node: &str) {
        self.kept.remove(node);
        self.leave(node);
    }

    fn leave(&mut self, node: &str) {
        if let Some(count) = self.per_zone.get_mut(self.zone(node)) {
            *count = count.saturating_sub(1);
        }
    }
}
