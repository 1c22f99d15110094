"""What asks autoscalers of nodes to leave a pod where it is."""

LEAVE_ALONE = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Annotations: to save a node is not worth the work of a step, and of all the pods it waits for."""
