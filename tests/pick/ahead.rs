//! Jobs that are prepared ahead of the one that is worked on.

use epicker::ahead::ahead;
use std::ops::ControlFlow;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn several_jobs_are_prepared_at_a_time_and_come_in_order() {
    // Nobody passes before four are there.
    let barrier = Barrier::new(4);
    let mut taken = Vec::new();
    let end = ahead(
        0..8,
        4,
        |job| {
            barrier.wait();
            10 * job
        },
        |next| {
            taken.extend(next);
            ControlFlow::<()>::Continue(())
        },
    );
    assert_eq!((taken, end), ((0..8).map(|job| (job, 10 * job)).collect(), None));
}

#[test]
fn no_more_jobs_are_in_memory_than_promised() {
    for threads in [1, 3] {
        let (begun, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut done = 0;
        ahead(
            0..200,
            threads,
            |_| {
                begun.fetch_add(1, Ordering::SeqCst);
            },
            |next| {
                if next.is_some() {
                    // Whoever prepares may go on while this one is worked on, and has time for it.
                    std::thread::yield_now();
                    most.fetch_max(begun.load(Ordering::SeqCst) - done, Ordering::SeqCst);
                    done += 1;
                }
                ControlFlow::<()>::Continue(())
            },
        );
        assert!(done == 200 && most.load(Ordering::SeqCst) <= threads + 2, "{threads} threads: {most:?} jobs");
    }
}

#[test]
fn the_consumer_is_asked_before_it_has_to_wait_and_may_end_the_work() {
    let gate = Barrier::new(2);
    let (mut events, begun) = (Vec::new(), AtomicUsize::new(0));
    let end = ahead(
        0..1000,
        1,
        |job| {
            begun.fetch_add(1, Ordering::SeqCst);
            if *job == 3 {
                gate.wait();
            }
        },
        |next| match next {
            Some((4, ())) => ControlFlow::Break("enough"),
            Some((job, ())) => {
                events.push(Some(job));
                ControlFlow::Continue(())
            }
            // Only here job 3 may go on.
            None => {
                if events.last() == Some(&Some(2)) {
                    gate.wait();
                }
                events.push(None);
                ControlFlow::Continue(())
            }
        },
    );
    assert_eq!(end, Some("enough"));
    let jobs: Vec<i32> = events.iter().flatten().copied().collect();
    assert_eq!(jobs, [0, 1, 2, 3]);
    let before_job_3 = events.iter().position(|event| *event == Some(3)).unwrap() - 1;
    assert_eq!(events[before_job_3], None);
    assert!(begun.load(Ordering::SeqCst) < 10, "jobs were begun after the end");
}

#[test]
fn a_panic_ends_the_work_and_is_passed_on() {
    for threads in [1, 3] {
        let of_a_job = std::panic::catch_unwind(|| {
            ahead(0..100, threads, |job| assert!(*job != 5, "job 5"), |_| ControlFlow::<()>::Continue(()));
        });
        assert!(of_a_job.is_err(), "{threads}");
        let of_the_consumer = std::panic::catch_unwind(|| {
            ahead(0..100, threads, |_| (), |next| if next.is_some() { panic!("consumer") } else { ControlFlow::<()>::Continue(()) });
        });
        assert!(of_the_consumer.is_err(), "{threads}");
    }
}
