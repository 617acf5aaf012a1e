//! A second try beside the first, for when that takes long.

use std::pin::Pin;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};
use weft_proto::model::policy::Hedging;

/// A try under way.
pub(crate) type Try<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs `first`, and after a while without a good result another try beside it, and so on; gives the first good result,
/// or else the last one. `next` makes another try, as long as there may be one. Tries that lose are dropped, which takes
/// back what they sent.
pub(crate) async fn race<'a, T>(
    hedging: Hedging,
    first: Try<'a, T>,
    mut next: impl FnMut() -> Option<Try<'a, T>>,
    is_good: impl Fn(&T) -> bool,
) -> T {
    let mut tries = FuturesUnordered::from_iter([first]);
    let mut left = hedging.max;
    let mut at = Instant::now() + hedging.after;
    loop {
        tokio::select! {
            biased;
            // There is always one under way: the last one's result is returned whatever it is.
            Some(result) = tries.next() => {
                if tries.is_empty() || is_good(&result) {
                    return result;
                }
            }
            () = sleep_until(at), if left > 0 => {
                left -= 1;
                at += hedging.after;
                match next() {
                    Some(another) => tries.push(another),
                    None => left = 0,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// What results from tries that take so long and succeed or not, when, and how many there were.
    async fn run(after: Duration, max: u32, tries: &[(Duration, bool)]) -> (usize, Duration, usize) {
        let begun = Instant::now();
        let count = Cell::new(0);
        let make = || {
            let number = count.get();
            let (time, is_good) = *tries.get(number)?;
            count.set(number + 1);
            let run = async move {
                tokio::time::sleep(time).await;
                (number, is_good)
            };
            Some(Box::pin(run) as Try<'_, (usize, bool)>)
        };
        let (winner, _) = race(Hedging::new(after, max), make().unwrap(), make, |(_, is_good)| {
            *is_good
        })
        .await;
        (winner, begun.elapsed(), count.get())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_result_wins_and_no_try_is_made_before_its_time() {
        // Quick: alone.
        assert_eq!(
            run(ms(50), 3, &[(ms(10), true), (ms(1), true)]).await,
            (0, ms(10), 1)
        );
        // Slow: the one beside it answers first.
        assert_eq!(
            run(ms(50), 1, &[(ms(500), true), (ms(10), true)]).await,
            (1, ms(60), 2)
        );
        // A bad result waits for the other.
        assert_eq!(
            run(ms(50), 1, &[(ms(60), false), (ms(100), true)]).await,
            (1, ms(150), 2)
        );
        // The first one alone is bad: the one who decides on retries has the word.
        assert_eq!(
            run(ms(50), 3, &[(ms(10), false), (ms(1), true)]).await,
            (0, ms(10), 1)
        );
        // All are bad: the last.
        assert_eq!(
            run(ms(50), 1, &[(ms(60), false), (ms(100), false)]).await,
            (1, ms(150), 2)
        );
        // Never more than there may be, nor than there are.
        let hanging = [(ms(500), true); 9];
        assert_eq!(run(ms(50), 3, &hanging).await, (0, ms(500), 4));
        assert_eq!(run(ms(50), 9, &hanging[..2]).await, (0, ms(500), 2));
    }
}
