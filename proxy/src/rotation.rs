//! When to ask for a certificate: a pure machine, given the time and the dice.
//!
//! ```text
//! Missing --issued--> Valid --half of its life--> renew: issued? -> Valid, with the new one
//!                       ^                                failed? -> again, ever later, but often enough in what is left
//!                       +-- the valid certificate stays in use through all of it --> Expired, which is still renewed
//! ```
//!
//! Time is that of a clock that goes on while the host sleeps, and a lifetime is counted from when the certificate came:
//! this host's wall clock and the controller's may differ.

use std::time::Duration;

use rand::Rng;

/// Of what is left of a certificate, the part after which a failed attempt is repeated at the latest.
const ATTEMPTS_LEFT: u32 = 10;
/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause: a controller that is back is found within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The shortest pause, however little is left: a controller in trouble is not helped by more.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// A time, counted from some moment before the process began.
pub(crate) type Time = Duration;

/// When the next certificate is asked for, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    held: Option<Held>,
    failing: Option<Failing>,
    /// When the next attempt is due.
    due: Time,
    /// Whether there is a token to ask with.
    has_token: bool,
    warned: Option<Warning>,
}

/// The certificate in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    expires: Time,
    /// When it was to be renewed: how worrying a failure is, is told from here.
    renew_at: Time,
}

/// Since when it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    pub(crate) since: Time,
    pub(crate) attempts: u32,
    pub(crate) why: String,
    /// The controller did not accept who asked, rather than not being there.
    refused: bool,
}

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A first certificate, with the token.
    Join,
    /// Another one for the identity of the one in use, which may have expired.
    Renew,
    /// Nothing helps but a token, and there is none.
    Token,
}

/// What an operator should know, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Warning {
    /// Half of what was left when it was to be renewed is over.
    Late,
    /// No peer accepts it any more.
    Expired,
}

impl Rotation {
    /// Without a certificate: one is asked for at once.
    pub(crate) fn missing(has_token: bool, now: Time) -> Self {
        Self {
            held: None,
            failing: None,
            due: now,
            has_token,
            warned: None,
        }
    }

    /// With a certificate from before: so old, of such a lifetime.
    pub(crate) fn held(
        has_token: bool,
        age: Duration,
        lifetime: Duration,
        now: Time,
        rng: &mut impl Rng,
    ) -> Self {
        let mut rotation = Self::missing(has_token, now);
        rotation.take(now.saturating_sub(age), lifetime, now, rng);
        rotation
    }

    /// What is due at `now`; else when something will be.
    pub(crate) fn next(&self, now: Time) -> Result<Ask, Time> {
        if now < self.due {
            return Err(self.due);
        }
        let refused = self.failing.as_ref().is_some_and(|failing| failing.refused);
        Ok(match self.held {
            None if self.has_token => Ask::Join,
            None => Ask::Token,
            // The grace for an expired one is over, or it was never ours to renew.
            Some(held) if now >= held.expires && refused => match self.has_token {
                // A token may be used up: both ways are tried in turns.
                true if self.attempts() % 2 == 1 => Ask::Join,
                _ => Ask::Renew,
            },
            Some(_) => Ask::Renew,
        })
    }

    /// A certificate came, valid for `lifetime` from now.
    pub(crate) fn on_issued(&mut self, lifetime: Duration, now: Time, rng: &mut impl Rng) {
        self.take(now, lifetime, now, rng);
    }

    /// The attempt failed.
    pub(crate) fn on_failed(&mut self, why: String, refused: bool, now: Time, rng: &mut impl Rng) {
        let attempts = self.attempts();
        let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.min(10));
        let often_enough = match self.held {
            Some(held) if now < held.expires => (held.expires - now) / ATTEMPTS_LEFT,
            Some(_) | None => LONGEST_PAUSE,
        };
        let pause = doubled
            .min(LONGEST_PAUSE)
            .min(often_enough)
            .mul_f64(rng.random_range(0.5..1.0))
            .max(SHORTEST_PAUSE);
        self.due = now + pause;
        let since = self.failing.as_ref().map_or(now, |failing| failing.since);
        self.failing = Some(Failing {
            since,
            attempts: attempts.saturating_add(1),
            why,
            refused,
        });
    }

    /// The controller wants it renewed within a time: each proxy at another moment of it.
    pub(crate) fn on_renew_soon(&mut self, within: Duration, now: Time, rng: &mut impl Rng) {
        if self.failing.is_none() {
            let moment = now + within.mul_f64(rng.random_range(0.0..1.0));
            self.due = self.due.min(moment);
        }
    }

    /// Since when and why it fails, if it does.
    pub(crate) fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// Whether there is a certificate that peers accept.
    pub(crate) fn is_valid(&self, now: Time) -> bool {
        self.held.is_some_and(|held| now < held.expires)
    }

    /// What is left of the certificate.
    pub(crate) fn left(&self, now: Time) -> Option<Duration> {
        self.held.map(|held| held.expires.saturating_sub(now))
    }

    /// A warning that is due and was not given yet.
    pub(crate) fn on_time(&mut self, now: Time) -> Option<Warning> {
        let held = self.held?;
        let late = held.renew_at + held.expires.saturating_sub(held.renew_at) / 2;
        let due = if now >= held.expires {
            Some(Warning::Expired)
        } else if now >= late {
            Some(Warning::Late)
        } else {
            None
        };
        if due <= self.warned {
            return None;
        }
        self.warned = due;
        due
    }

    fn attempts(&self) -> u32 {
        self.failing.as_ref().map_or(0, |failing| failing.attempts)
    }

    fn take(&mut self, received: Time, lifetime: Duration, now: Time, rng: &mut impl Rng) {
        let expires = received + lifetime;
        // A jittered half: a fleet that started together must not renew together.
        let renew_at = received + lifetime.mul_f64(rng.random_range(0.4..0.6));
        self.held = Some(Held { expires, renew_at });
        self.failing = None;
        self.warned = None;
        self.due = renew_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const START: Time = Duration::from_secs(1_000_000);

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    fn issued(rng: &mut StdRng) -> Rotation {
        let mut rotation = Rotation::missing(true, START);
        assert_eq!(rotation.next(START), Ok(Ask::Join));
        rotation.on_issued(DAY, START, rng);
        rotation
    }

    #[test]
    fn a_certificate_is_renewed_at_a_jittered_half_of_its_life() {
        let mut rng = rng();
        let moments: Vec<Duration> = (0..200)
            .map(|_| issued(&mut rng).next(START).unwrap_err() - START)
            .collect();
        assert!(moments.iter().all(|at| (DAY * 2 / 5..DAY * 3 / 5).contains(at)));
        let (first, last) = (moments.iter().min().unwrap(), moments.iter().max().unwrap());
        assert!(*last - *first > DAY / 6, "spread over {:?}", *last - *first);
    }

    #[test]
    fn a_failing_renewal_is_tried_until_the_end_and_beyond_it_and_the_certificate_stays() {
        let mut rng = rng();
        let mut rotation = issued(&mut rng);
        let (mut now, mut attempts) = (START, 0);
        while now < START + DAY {
            match rotation.next(now) {
                Err(due) => now = due,
                Ok(ask) => {
                    assert_eq!(ask, Ask::Renew);
                    assert!(rotation.is_valid(now));
                    rotation.on_failed("no answer".to_owned(), false, now, &mut rng);
                    attempts += 1;
                }
            }
        }
        assert!(
            attempts > 1_000,
            "{attempts}: at least one each 30 s of half a day"
        );
        assert!(!rotation.is_valid(now));
        assert_eq!(
            rotation.next(now),
            Ok(Ask::Renew),
            "it tries with the expired one"
        );
        let failing = rotation.failing().unwrap();
        assert!(failing.attempts == attempts && failing.since < START + DAY * 3 / 5);
        rotation.on_issued(DAY, now, &mut rng);
        assert_eq!(rotation.failing(), None);
        assert!(rotation.is_valid(now));
    }

    #[test]
    fn pauses_are_bounded_by_what_is_left() {
        let mut rng = rng();
        let mut rotation = Rotation::missing(true, START);
        rotation.on_issued(Duration::from_secs(10), START, &mut rng);
        let mut now = rotation.next(START).unwrap_err();
        let mut attempts = 0;
        while rotation.is_valid(now) {
            rotation.on_failed(String::new(), false, now, &mut rng);
            attempts += 1;
            now = rotation.next(now).unwrap_err();
        }
        assert!(attempts >= 10, "{attempts} attempts in the last five seconds");
    }

    #[test]
    fn an_expired_one_that_is_refused_gives_the_token_its_turn() {
        let mut rng = rng();
        let mut rotation = issued(&mut rng);
        let end = START + DAY + Duration::from_secs(1);
        assert_eq!(rotation.next(end), Ok(Ask::Renew));
        rotation.on_failed("the grace is over".to_owned(), true, end, &mut rng);
        let now = rotation.next(end).unwrap_err();
        assert_eq!(rotation.next(now), Ok(Ask::Join));
        rotation.on_failed("the token is used up".to_owned(), true, now, &mut rng);
        let now = rotation.next(now).unwrap_err();
        assert_eq!(rotation.next(now), Ok(Ask::Renew));
        // Without a token there is only the certificate.
        let mut without = Rotation::held(false, DAY * 2, DAY, START + DAY * 3, &mut rng);
        let now = START + DAY * 3;
        assert_eq!(without.next(now), Ok(Ask::Renew));
        without.on_failed(String::new(), true, now, &mut rng);
        let now = without.next(now).unwrap_err();
        assert_eq!(without.next(now), Ok(Ask::Renew));
        assert_eq!(Rotation::missing(false, START).next(START), Ok(Ask::Token));
    }

    #[test]
    fn one_that_is_not_expired_is_never_replaced_by_a_token() {
        let mut rng = rng();
        let mut rotation = issued(&mut rng);
        let mut now = rotation.next(START).unwrap_err();
        for _ in 0..20 {
            assert_eq!(rotation.next(now), Ok(Ask::Renew));
            rotation.on_failed(String::new(), true, now, &mut rng);
            now = rotation.next(now).unwrap_err();
        }
    }

    #[test]
    fn a_wish_of_the_controller_is_spread_over_its_window_and_never_delays() {
        let mut rng = rng();
        let window = Duration::from_secs(60);
        let moments: Vec<Duration> = (0..100)
            .map(|_| {
                let mut rotation = issued(&mut rng);
                rotation.on_renew_soon(window, START, &mut rng);
                rotation.next(START).unwrap_err() - START
            })
            .collect();
        assert!(moments.iter().all(|at| *at < window));
        assert!(moments.iter().filter(|at| **at < window / 2).count() > 30);
        let mut rotation = issued(&mut rng);
        let before = rotation.next(START);
        rotation.on_renew_soon(DAY * 30, START, &mut rng);
        assert!(rotation.next(START).unwrap_err() <= before.unwrap_err());
    }

    #[test]
    fn warnings_are_given_once_and_in_rising_order() {
        let mut rng = rng();
        let mut rotation = issued(&mut rng);
        let renew = rotation.next(START).unwrap_err();
        assert_eq!(rotation.on_time(renew), None);
        let late = renew + (START + DAY - renew) / 2;
        assert_eq!(rotation.on_time(late), Some(Warning::Late));
        assert_eq!(rotation.on_time(late), None);
        assert_eq!(rotation.on_time(START + DAY), Some(Warning::Expired));
        assert_eq!(rotation.on_time(START + DAY * 2), None);
        rotation.on_issued(DAY, START + DAY * 2, &mut rng);
        assert_eq!(rotation.on_time(START + DAY * 2), None);
    }

    #[test]
    fn a_cached_certificate_goes_on_with_its_life() {
        let mut rng = rng();
        let rotation = Rotation::held(false, DAY / 4, DAY, START, &mut rng);
        let due = rotation.next(START).unwrap_err();
        assert!((START + DAY * 3 / 20..START + DAY * 7 / 20).contains(&due));
        assert_eq!(rotation.left(START), Some(DAY * 3 / 4));
        let late = Rotation::held(false, DAY * 3 / 4, DAY, START, &mut rng);
        assert_eq!(late.next(START), Ok(Ask::Renew));
    }
}
