//! Several rounds as one figure.

/// A median and how far rounds lie from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figure {
    /// The middle value.
    pub median: f64,
    /// Half of the distance between the least and the greatest value.
    pub spread: f64,
}

impl Figure {
    /// The figure of all rounds; `None` without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self {
            median,
            spread: (last - first) / 2.0,
        })
    }

    /// The spread as a part of the median.
    pub fn noise(&self) -> f64 {
        self.spread / self.median.abs().max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_is_the_middle_and_half_of_the_range() {
        let figure = |values: &[f64]| Figure::of(values.iter().copied());
        let (median, spread) = (2.0, 1.5);
        assert_eq!(figure(&[4.0, 1.0, 2.0]), Some(Figure { median, spread }));
        assert_eq!(figure(&[4.0, 2.0]).map(|f| f.median), Some(3.0));
        assert_eq!(figure(&[]), None);
    }
}
