//! What is asked of a tenant's cards, as sentences for any engine that keeps them.

/// Makes each sentence a test of one engine.
macro_rules! conformance {
    ($engine:ty) => {
        crate::engines::conformance! { $engine:
            cards::of_two_handlers_at_the_same_time_one_has_the_effect,
            cards::a_gap_in_the_events_is_refused_and_changes_nothing,
            cards::an_effect_that_is_rolled_back_leaves_the_checkpoint_where_it_was,
            cards::a_card_is_due_from_the_moment_on_at_which_it_ends_unless_it_left_circulation,
            cards_list::paging_visits_every_card_once_in_every_order_although_keys_are_tied,
            cards_list::the_last_page_says_that_it_is_the_last_even_if_it_is_full,
            cards_list::cards_are_filtered_by_status_and_kind_together,
            cards_list::a_search_finds_part_of_a_name_in_any_case_beyond_ascii_too,
            cards_list::a_search_takes_wildcards_and_quotes_for_what_they_are,
            cards_list::a_search_looks_at_address_number_and_reference_but_never_across_two_of_them,
            cards_rebuild::what_is_built_anew_equals_the_one_in_use_row_for_row,
            cards_rebuild::rows_that_went_wrong_are_right_after_building_anew,
            cards_rebuild::building_anew_under_traffic_loses_nothing_and_doubles_nothing,
            cards_rebuild::building_anew_under_traffic_keeps_nothing_that_was_wrong,
            cards_rebuild::two_buildings_at_the_same_time_leave_the_cards_right,
            cards_rebuild::a_building_that_was_cut_off_is_begun_again_from_the_first_event,
        }

        proptest::proptest! {
            #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

            #[test]
            fn the_rows_are_the_aggregates_of_any_history(
                asks in crate::history::asks(),
                at_a_time in 1..40_usize,
            ) {
                use crate::cards::{run, the_rows_are_the_aggregates_of_any_history as sentence};
                run(sentence::<$engine>(asks, at_a_time));
            }

            #[test]
            fn events_handed_over_again_change_nothing(
                asks in crate::history::asks(),
                overlap in 1..20_u64,
            ) {
                use crate::cards::{events_handed_over_again_change_nothing as sentence, run};
                run(sentence::<$engine>(asks, overlap));
            }
        }
    };
    ($engine:ty: $($file:ident::$sentence:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $sentence() {
                crate::$file::$sentence::<$engine>().await;
            }
        )+
    };
}
pub(crate) use conformance;
