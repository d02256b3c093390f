{{/* What the schema cannot say: values that do not go together end the installation with a sentence. */}}

{{- define "vlmoe.graceSeconds" -}}
{{- $least := add .Values.preStopSeconds (ceil .Values.drainSeconds) 10 -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- $least -}}
{{- else -}}
{{- if lt (int64 .Values.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "terminationGracePeriodSeconds is %v, but preStopSeconds + drainSeconds + 10 is %d: the pod would be killed while it drains" .Values.terminationGracePeriodSeconds $least) -}}
{{- end -}}
{{- int64 .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{- define "vlmoe.checks" -}}
{{- if include "vlmoe.isGroup" . -}}
{{- if .Values.collections.enabled -}}
{{- fail "collections.enabled and expertParallel.nodes do not go together: a group's pods have no volumes of their own" -}}
{{- end -}}
{{- if .Values.options.ranks -}}
{{- fail "options.ranks follows from expertParallel.nodes and expertParallel.ranksPerNode: leave it out" -}}
{{- end -}}
{{- if or (gt (len .Values.models) 1) .Values.modelLoading.claim -}}
{{- fail "expertParallel.nodes: a group serves one model, and loads no other" -}}
{{- end -}}
{{- if ne .Values.strategy.type "RollingUpdate" -}}
{{- fail "expertParallel.nodes: a LeaderWorkerSet knows strategy.type RollingUpdate alone" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.collections.enabled (gt (int64 .Values.replicaCount) 1) -}}
{{- fail "collections.enabled needs replicaCount 1: each pod would have collections of its own" -}}
{{- end -}}
{{- if and .Values.collections.enabled (include "vlmoe.autoscaled" .) -}}
{{- fail "collections.enabled and autoscaling do not go together: each pod would have collections of its own" -}}
{{- end -}}
{{- if gt (int64 .Values.autoscaling.minReplicas) (int64 .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is larger than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.autoscaling.keda.serverAddress) -}}
{{- fail "autoscaling.kind keda needs autoscaling.keda.serverAddress, the address of Prometheus" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs: which Gateway" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled needs ingress.hosts" -}}
{{- end -}}
{{- if and (not (kindIs "invalid" .Values.podDisruptionBudget.minAvailable)) (not (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable)) -}}
{{- fail "podDisruptionBudget: give minAvailable or maxUnavailable, and set the other to null" -}}
{{- end -}}
{{- if ne (empty .Values.modelLoading.claim) (empty .Values.modelLoading.adminSecret) -}}
{{- fail "modelLoading needs both claim and adminSecret: from where, and who may" -}}
{{- end -}}
{{- if and .Values.ingress.grpc (not .Values.grpc.enabled) -}}
{{- fail "ingress.grpc needs grpc.enabled" -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.models -}}
{{- if has .name $names -}}
{{- fail (printf "two models are named %q" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if and .Values.apiKeys.client (not .Values.apiKeys.existingSecret) -}}
{{- fail "apiKeys.client is one of the keys of apiKeys.existingSecret, which is not set" -}}
{{- end -}}
{{- if and .Values.apiKeys.existingSecret .Values.metrics.serviceMonitor.enabled (not .Values.apiKeys.client) -}}
{{- fail "metrics.serviceMonitor needs apiKeys.client: /metrics asks for a key where keys are configured" -}}
{{- end -}}
{{- end -}}
