//! The list of all promises; what each says is in `conformance`.

/// Makes each sentence a test of one engine.
macro_rules! conformance {
    ($engine:ty) => {
        crate::sentences::conformance! { $engine:
            positions_have_no_gaps_under_64_concurrent_appenders,
            a_refused_append_leaves_the_rest_of_its_batch_alone,
            a_repeated_request_is_answered_as_before_also_after_a_restart,
            a_request_is_still_known_after_many_others,
            a_request_repeated_within_a_batch_is_done_once,
            a_key_used_for_another_request_is_refused,
            a_refused_request_may_be_made_again,
            an_append_without_events_only_records_its_outcome,
            an_append_at_another_version_is_refused,
            a_plan_change_and_issuances_of_one_batch_have_an_order,
            a_right_that_ends_by_itself_counts_at_the_moment_of_admission,
            a_full_queue_says_so_at_once_and_takes_no_more,
            looking_at_the_head_takes_no_appends_place,
            an_append_whose_caller_is_gone_is_done_once,
            the_head_after_a_restart_is_the_head_before_it,
            a_serial_is_never_handed_out_twice,
            what_is_read_from_memory_is_what_is_stored,
            the_history_is_filtered_by_all_that_is_asked,
            a_commit_rings_once_it_can_be_read,
            a_batch_that_cannot_be_decided_fails_alone,
        }
    };
    ($engine:ty: $($sentence:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $sentence() {
                crate::conformance::$sentence::<$engine>().await;
            }
        )+
    };
}
pub(crate) use conformance;
