"""Images from the network itself: objectives, reinforcement, BN statistics, the loop, quality."""
